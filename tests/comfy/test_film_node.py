"""The film node in a running ComfyUI: what is made, what is said, what a stop leaves."""

import json
import time

import av
import numpy as np
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state
from graphs import changed, long_video, save_video, saved, saved_in
from support.comfyui import frames_of, needs_comfyui, running

SCRIPT = "0:00 a red ball rolls\n0:05 the ball stops\n0:07.5 cut: a blue cube falls\n0:10 end"  # 2 + 1 + 1

pytestmark = needs_comfyui


def film_of(run):
    assert run.error is None, run.error["exception_message"]
    (shown,) = run.shown["film"]["images"]
    return next(path for path in run.files if path.name == shown["filename"])


def chunks(server) -> int:
    folder = server.base / "output" / "sana_films" / "store" / "chunks"
    return len(list(folder.rglob("*.safetensors")))


def same_film(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(frames_of(a), frames_of(b), strict=True))


def test_a_film_is_made_once(server):
    graph = long_video(SCRIPT)
    graph |= {"copy": save_video(["film", 0], "video/copy"), "state": saved(["film", 1], "film")}
    before = chunks(server)
    run = server.run(graph)
    film = film_of(run)
    assert len(frames_of(film)) == 162
    assert chunks(server) == before + 4
    copies = [path for path in run.files if path.name.startswith("copy")]
    assert same_film(film, copies[0])
    with av.open(str(film)) as file:
        assert json.loads(file.metadata["prompt"])["film"]["class_type"] == "SanaVideoLongVideo"
    words = run.words["film"].splitlines()
    assert words[0].startswith("4 chunks · 2 scenes · 162 frames")
    assert words[-1].startswith("4 chunks · 10.1 s · took")
    assert run.previews
    assert "film" not in server.run(graph).ran, "ComfyUI has it"
    edited = changed(graph, "film", script=SCRIPT.replace("the ball stops", "the ball jumps"))
    run = server.run(edited)
    assert "3 of 4 chunks are from the store." in run.words["film"]
    assert chunks(server) == before + 5, "only the later chunks of its scene"
    assert not same_film(film, film_of(run))


def test_a_stop_leaves_a_film_and_the_next_run_goes_on(server):
    graph = long_video("seed=91 a red ball rolls", seconds=30.0, filename_prefix="stopped/film")

    def stop(kind, data):
        if kind == "progress" and data["node"] == "film" and data["value"] >= 7:
            server.ask("/interrupt", {})

    run = server.run(graph, on_event=stop)
    assert run.interrupted
    (path,) = (server.base / "output" / "stopped").glob("*.mp4")
    finished = len(frames_of(path))
    assert finished >= 81
    (_, last, most) = [each for each in run.progress if each[0] == "film"][-1]
    assert 7 <= last < most
    again = server.run(graph)
    assert "of 12 chunks are from the store." in again.words["film"]
    assert len(frames_of(film_of(again))) == 481
    assert all(np.array_equal(a, b) for a, b in zip(frames_of(path), frames_of(film_of(again)), strict=False))


def test_two_films_that_are_queued_at_once_share_their_beginning(server):
    one, other = (long_video(f"a red ball rolls\nthe ball {what}", seed=44) for what in ("stops", "jumps"))
    before, queued = chunks(server), []

    def queue(kind, data):
        if kind == "execution_start" and not queued:
            queued.append(server.ask("/prompt", {"prompt": other})[1]["prompt_id"])

    assert len(frames_of(film_of(server.run(one, on_event=queue)))) == 161
    for _ in range(600):
        history = server.ask(f"/history/{queued[0]}")[1]
        if history:
            break
        time.sleep(0.1)
    (video,) = history[queued[0]]["outputs"]["film"]["images"]
    assert len(frames_of(server.base / "output" / video["subfolder"] / video["filename"])) == 161
    assert chunks(server) == before + 2 + 2 + 2


def test_it_is_refused_before_it_runs(server):
    assert "Line 2" in server.refused(long_video("0:00 a\n0:75 b"))
    assert "does not name a file" in server.refused(long_video("a", filename_prefix="../film"))
    run = server.run(long_video("a", vae_device="gpu:5"))
    assert "vae_device is gpu:5" in run.error["exception_message"]


def test_after_a_restart_everything_is_there(tmp_path):
    graph = long_video(SCRIPT) | {"light": saved(["film", 1], "light", "history only")}
    with running(tmp_path) as server:
        one = server.run(graph)
    with running(tmp_path) as server:
        other = server.run(graph)
    assert "4 of 4 chunks are from the store." in other.words["film"]
    assert same_film(film_of(one), film_of(other))
    states = sorted((tmp_path / "output" / "sana_states").glob("light_*"))
    assert len(states) == 2
    assert saved_in(states[0]) == saved_in(states[1])
    assert load_state(states[0]).frames == 162
