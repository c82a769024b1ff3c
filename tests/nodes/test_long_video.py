"""The film node: a script in, a film out; nothing made twice, nothing lost."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import av
import comfy.model_management as management
import numpy as np
import pytest
import server
import torch
from comfy import cli_args
from comfy_api.latest import InputImpl
from comfy_execution.utils import CurrentNodeContext
from comfyui_sana_video.bridge import films, sampling
from comfyui_sana_video.bridge.chunk_store import output_store
from comfyui_sana_video.bridge.vaes import HostedDecoder, file_of, load_vae
from comfyui_sana_video.demo import model_set
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames
from comfyui_sana_video.sana_video_core.streaming.rebuild import MemoryCache
from comfyui_sana_video.sana_video_core.streaming.state import LightState, StreamState
from safetensors.torch import save_file
from support import artist
from support.artist import DEMO, folders, output_of, refused, run, same_state
from support.comfyui import frames_of
from support.lora_files import random_tensor
from support.pack import same

WIDTH, HEIGHT = 32, 16
CALLS = 3  # in a chunk: two steps, and the clean pass
SCRIPT = "0:00 a red ball rolls\n0:05 a blue cube falls\n0:07.5 cut: a red ball rolls\n0:10 end"  # 2 + 1 + 1


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """MODEL, encoder and VAE whose files stay."""
    folder = tmp_path_factory.mktemp("models")
    with patch.object(model_set, "demo_set") as built_in:
        built_in.return_value = model_set.write_demo_set(folder / "set")
        for path in (folder / "set").rglob("*"):
            os.utime(path, (0, 0))  # what changed just now is hashed again each time
        return SimpleNamespace(
            model=run("ModelLoader", DEMO, "auto"),
            encoder=run("TextEncoderLoader", DEMO),
            vae=run("VAELoader", DEMO),
        )


@pytest.fixture
def restart(monkeypatch):
    """Forgets what a process knows."""

    def forget() -> None:
        monkeypatch.setattr(sampling, "INTERRUPTED", sampling.InterruptedRun())
        monkeypatch.setattr(sampling, "MEMORIES", MemoryCache())
        monkeypatch.setattr(films, "MEMORIES", sampling.MEMORIES)

    return forget


def quick(self, pieces, *, tiling=None):
    """In the place of HostedDecoder.decode_stream, which takes most of the time: three channels, larger."""
    begun = False
    for piece in pieces:
        for latents in piece[:, :3].clamp(-1, 1).split(1, dim=2):
            yield latents.repeat(1, 1, 4 if begun else 1, 8, 8)
            begun = True


@pytest.fixture(autouse=True)
def decoder(request, monkeypatch):
    if "slow_decoder" not in request.fixturenames:
        monkeypatch.setattr(HostedDecoder, "decode_stream", quick)


@pytest.fixture
def slow_decoder():
    """The real one."""


@pytest.fixture(autouse=True)
def base(tmp_path, restart):
    restart()
    with folders(tmp_path):
        yield tmp_path
    management.throw_exception_if_processing_interrupted()  # nobody leaves it set


def start(batch: int = 1):
    return artist.start(batch, WIDTH, HEIGHT)


def values_of(loaded, script: str, **changes):
    values = {"model": loaded.model, "text_encoder": loaded.encoder, "vae": loaded.vae, "script": script}
    values |= {"seconds": 15.0, "width": WIDTH, "height": HEIGHT, "seed": 3, "fps": 16.0}
    values |= {"filename_prefix": "sana_films/film", "resume": True, "steps": 2, "instruction": False}
    return values | changes


@pytest.fixture
def film(loaded):
    def made(script: str = SCRIPT, **changes):
        """The video, the state, the count of frames."""
        return run("LongVideo", **values_of(loaded, script, **changes))

    return made


@pytest.fixture(scope="module")
def straight(loaded, tmp_path_factory):
    """SCRIPT's film, which nobody stopped, in a folder of its own."""
    with folders(tmp_path_factory.mktemp("straight")), patch.object(HostedDecoder, "decode_stream", quick):
        return run("LongVideo", **values_of(loaded, SCRIPT))


@contextmanager
def calls(loaded, stop_at: int | None = None):
    """Counts calls of model and encoder, and what is loaded, in the block."""
    module, made = loaded.model.model.diffusion_model, SimpleNamespace(calls=0, loads=[], texts=0)
    inner, load = module._forward, management.load_models_gpu

    def counted(*arguments, **options):
        made.calls += 1
        if made.calls == stop_at:
            management.interrupt_current_processing()
        return inner(*arguments, **options)

    def loads(models, *arguments, **options):
        made.loads += [type(each.model).__name__ for each in models]
        return load(models, *arguments, **options)

    module._forward = counted
    try:
        with patch.object(management, "load_models_gpu", loads):
            yield made
    finally:
        del module._forward


def entries(kind: str) -> int:
    return len(list((output_store().folder / kind).rglob("*.safetensors")))


def path_of(video) -> Path:
    return Path(video.get_stream_source())


def same_film(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(frames_of(a), frames_of(b), strict=True))


@pytest.fixture
def page(monkeypatch):
    """What the node says: its texts, in their order."""
    sent = []
    instance = SimpleNamespace(client_id="me", send_progress_text=lambda text, *_: sent.append(text))
    instance.sockets_metadata, instance.send_sync, instance.pictures = {}, None, []
    instance.send_sync = lambda *message: instance.pictures.append(threading.current_thread().name)
    monkeypatch.setattr(server.PromptServer, "instance", instance)
    monkeypatch.setattr(cli_args.args, "preview_method", cli_args.LatentPreviewMethod.Auto)
    with CurrentNodeContext("a prompt", "7"):
        yield SimpleNamespace(texts=sent, pictures=instance.pictures)


# --- the film


def test_a_script_becomes_a_file_a_state_and_its_frames(film, loaded, base):
    with calls(loaded) as made:
        video, state, frames = film()
    assert made.calls == 4 * CALLS + 1  # and a recache
    assert path_of(video) == base / "output" / "sana_films" / "film_00001_.mp4"
    assert frames == 81 + 40 + 41 == video.get_frame_count()
    assert video.get_dimensions() == (WIDTH, HEIGHT)
    history = state.state.history
    assert [(c.scene, c.length, c.seed, c.entry) for c in history] == [
        (0, 11, 3, "start"),
        (0, 10, 3, "same"),
        (0, 10, 3, "recache"),
        (1, 11, 4, "start"),
    ]
    assert [entries(kind) for kind in ("chunks", "segments", "embeddings")] == [4, 4, 2]


def test_its_frames_are_those_of_decode_stream(film, loaded, slow_decoder):
    video, state, _ = film("a red ball", seconds=2.5)
    decoded = run("DecodeStream", loaded.vae, state, 0, 16.0, "h264", 0)
    pictures = [read_frames(path_of(each)) for each in (video, decoded)]
    assert len(pictures[0]) == len(pictures[1])
    near = (pictures[0].float() - pictures[1].float()).abs().mean()
    assert near < 0.02, "encoded by chunk or at once: the same pictures, but for the encoder"


def test_the_second_time_nothing_is_loaded(film, loaded, straight):
    one = film()
    assert same_film(path_of(one[0]), path_of(straight[0]))
    with calls(loaded) as made:
        other = film()
    assert (made.calls, made.loads) == (0, [])
    assert path_of(one[0]).read_bytes() == path_of(other[0]).read_bytes()
    assert path_of(other[0]).name == "film_00002_.mp4"
    with calls(loaded) as made:
        film("a red ball rolls", seconds=3.3, fps=24.0)
    assert (made.calls, set(made.loads)) == (0, {"WanVAE"}), "the same chunks at another speed"


def test_a_changed_line_samples_the_later_chunks_of_its_scene(film, loaded, restart):
    film()
    restart()
    changed = SCRIPT.replace("a blue cube falls", "the ball stops")
    with calls(loaded) as made:
        after = film(changed)
    assert made.calls == 2 + 1 + CALLS  # two chunks are absorbed again, a recache, a chunk
    with calls(loaded) as made:
        film(SCRIPT.replace("cut:", "cut: seed=9"))
    assert made.calls == CALLS, "a scene knows nothing of those before"
    with calls(loaded) as made:
        film(SCRIPT)
    assert (made.calls, made.loads) == (0, []), "the old take is still there"
    with folders(output_store().folder / "elsewhere"), calls(loaded) as made:
        alone = film(changed)
        assert made.calls == 4 * CALLS + 1
        assert same_film(path_of(after[0]), path_of(alone[0]))
    assert all(
        same(a.latents, b.latents)
        for a, b in zip(after[1].state.history, alone[1].state.history, strict=True)
    )


def test_what_it_shows_when_it_runs_unwired(loaded):
    script, nested = "a red ball", "mine/today/fox"
    output = output_of("LongVideo", **values_of(loaded, script, seconds=2.5, filename_prefix=nested))
    shown = output.ui.as_dict()
    assert shown["images"] == [{"filename": "fox_00001_.mp4", "subfolder": "mine/today", "type": "output"}]
    assert artist.node("LongVideo").GET_SCHEMA().is_output_node


def test_save_video_copies_it(film, base):
    from comfyui_sana_video.standalone.engine.core_nodes import SaveVideo

    video, *_ = film("a red ball", seconds=2.5)
    SaveVideo.hidden = SimpleNamespace(extra_pnginfo=None, prompt={"1": {}})
    SaveVideo.execute(video, "video/copy", "auto", "auto")
    assert same_film(path_of(video), base / "output" / "video" / "copy_00001_.mp4")


def test_the_pages_workflow_is_in_the_file(loaded, monkeypatch):
    """Dropped on the page, a film opens the workflow that made it. ComfyUI's Save Video writes the same."""
    cls, drawn = artist.node("LongVideo"), {"nodes": [{"id": 7, "title": "“fox” {a|b}"}]}
    monkeypatch.setattr(cls, "hidden", SimpleNamespace(prompt={"7": {}}, extra_pnginfo={"workflow": drawn}))
    assert {"prompt", "extra_pnginfo"} <= {each.name for each in cls.GET_SCHEMA().hidden}
    path = path_of(run("LongVideo", **values_of(loaded, "a red ball", seconds=2.5))[0])
    with av.open(str(path)) as file:
        tags = dict(file.metadata)
    assert (json.loads(tags["workflow"]), json.loads(tags["prompt"])) == (drawn, {"7": {}})
    assert json.loads(tags["comment"])["script"] == "a red ball"
    boxes = [b"moov", b"udta", b"meta", b"keys", b"mdtaworkflow", b"ilst", b"mdat"]  # where the page looks
    places = [path.read_bytes().index(box) for box in boxes]
    assert places == sorted(places)
    monkeypatch.setattr(films.args, "disable_metadata", True)
    path = path_of(run("LongVideo", **values_of(loaded, "a red ball", seconds=2.5))[0])
    with av.open(str(path)) as file:
        assert not file.metadata.keys() & {"workflow", "prompt"}


# --- what is refused


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"script": "0:00 a\n0:75 b"}, "Line 2: “0:75”"),
        ({"script": "a", "seconds": 300.0}, "Line 1: with this shot its scene"),
        ({"seconds": -1.0}, "The film is to last -1.0 seconds"),
        ({"fps": 0.0}, "fps is 0.0"),
        ({"width": 50}, "width"),
        ({"height": 5000}, "The height is 5000 pixels"),
        ({"filename_prefix": "../film"}, "“../film” does not name a file in ComfyUI's output folder"),
        ({"filename_prefix": " "}, "does not name a file"),
        ({"codec": "h266"}, "h266"),
    ],
)
def test_a_mistake_is_said_before_the_run(changes, said):
    values = {"script": "a", "seconds": 5.0, "fps": 16.0, "width": 48, "height": 32}
    values |= {"filename_prefix": "films/film", "codec": "h264"}
    check = artist.node("LongVideo").validate_inputs
    assert check(**values) is True
    assert said in check(**values | changes)
    assert check(**dict.fromkeys(values)) is True, "linked: not known yet"


def _batch(loaded):
    return {"state": start(batch=2)}


def _another_model(loaded):
    state = start()
    identity = replace(state.state.identity, fingerprint="another")
    return {"state": state._replace(state=replace(state.state, identity=identity))}


def _two(loaded):
    return {"state": start(), "image": artist.picture(HEIGHT, WIDTH)}


def _picture_and_video(loaded):
    return {"image": artist.picture(HEIGHT, WIDTH), "video": SimpleNamespace()}


def _not_a_vae(loaded):
    return {"vae": loaded.model}


def _wide_sound(loaded):
    return {"audio": {"waveform": torch.zeros(4), "sample_rate": 8000}}


REFUSED = {
    _batch: ("batch of 2", "batch_size 1"),
    _another_model: ("another",),
    _two: ("an image, a video or a state",),
    _picture_and_video: ("an image, a video or a state",),
    _not_a_vae: ("as VAE",),
    _wide_sound: ("Sound of shape [4]",),
}


@pytest.mark.parametrize("begin, words", REFUSED.items(), ids=[each.__name__ for each in REFUSED])
def test_what_does_not_fit_is_said_before_any_work(film, loaded, base, begin, words):
    values = begin(loaded)
    with calls(loaded) as made, refused(*words):
        film(**values)
    assert (made.calls, made.loads) == (0, [])
    assert not list(base.rglob("*.mp4"))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"vae_device": "gpu:5"}, ("vae_device is gpu:5", "no CUDA GPUs")),
        ({"sampler": "x"}, ("sampler", "x")),
        ({"steps": 0}, ("steps",)),
        ({"script": "0:00 a\n0:75 b"}, ("Line 2",)),
    ],
)
def test_a_choice_that_cannot_work_is_said_before_any_work(film, loaded, base, changes, words):
    with calls(loaded) as made, refused(*words):
        film(image=artist.picture(HEIGHT, WIDTH), **changes)
    assert (made.calls, made.loads) == (0, [])
    assert not list(base.rglob("*.mp4"))


# --- what it begins with


def test_it_goes_on_from_a_state_and_shows_what_is_new(film, loaded):
    one, state, frames = film("a red ball rolls", seconds=5.0)
    assert frames == 81
    more, after, frames = film("a red ball rolls", seconds=5.0, state=state, width=16)
    assert frames == 80
    assert len(after.state.history) == 4
    with calls(loaded) as made:
        whole, straight, _ = film("a red ball rolls", seconds=10.0)
    assert made.calls == 0, "the same stream, so the same chunks"
    assert all(
        same(a.latents, b.latents) for a, b in zip(after.state.history, straight.state.history, strict=True)
    )
    joined = [*frames_of(path_of(one)), *frames_of(path_of(more))]
    assert all(np.array_equal(a, b) for a, b in zip(joined, frames_of(path_of(whole)), strict=True))


def test_a_light_state_goes_on(film, loaded, restart):
    film("a red ball rolls", seconds=5.0)
    light = film("a red ball rolls", seconds=5.0)[1]
    assert isinstance(light.state, LightState)
    restart()
    with calls(loaded) as made:
        after = film("a red ball rolls", seconds=2.5, state=light)[1]
    assert made.calls == 2 + CALLS  # absorbed again, then sampled
    assert isinstance(after.state, StreamState)
    with folders(output_store().folder / "elsewhere"):
        assert same_state(after, film("a red ball rolls", seconds=7.5)[1])


def test_it_begins_with_a_picture(film, loaded):
    video, state, frames = film("a red ball rolls", seconds=2.5, image=artist.picture(HEIGHT, WIDTH))
    assert [(c.primed, c.length) for c in state.state.history] == [(True, 1), (False, 10)]
    assert frames == 41
    with calls(loaded) as made:
        again, *_ = film("a red ball rolls", seconds=2.5, image=artist.picture(HEIGHT, WIDTH))
    assert made.calls <= 1
    assert same_film(path_of(video), path_of(again))


def test_it_begins_with_the_end_of_a_video(film, base):
    first = film("a red ball rolls", seconds=2.5)[0]
    source = InputImpl.VideoFromFile(str(path_of(first)))
    video, state, frames = film("a blue cube falls", seconds=5.0, video=source)
    assert state.state.history[0].primed
    assert frames == state.state.frames == len(frames_of(path_of(video)))


def test_the_sound_is_cut_to_the_film(film):
    sound = torch.rand(2, 1, 8000 * 9, generator=torch.Generator().manual_seed(0)) - 0.5
    video = film("a red ball", seconds=2.5, audio={"waveform": sound, "sample_rate": 8000})[0]
    silent = film("a red ball", seconds=2.5, audio=None)[0]
    with av.open(str(path_of(video))) as heard, av.open(str(path_of(silent))) as other:
        samples = np.concatenate([frame.to_ndarray() for frame in heard.decode(audio=0)], axis=1)
        assert not other.streams.audio
    assert abs(samples.shape[1] / 8000 - 41 / 16) < 0.2
    assert same_film(path_of(video), path_of(silent))


# --- models


def test_a_draft_decodes_and_is_not_taken_for_the_vae(film, loaded, base, monkeypatch, slow_decoder):
    from comfyui_sana_video.sana_video_core.vae import tiny_decoder
    from support.tiny_files import SLIM, tiny_weights

    monkeypatch.setattr(tiny_decoder, "WIDTHS", SLIM)
    path = base / "models" / "vae_approx" / "lighttaew2_1.safetensors"
    path.parent.mkdir(parents=True)
    save_file(tiny_weights(widths=SLIM), path)
    draft = run("VAELoader", path.name)
    whole = film("a red ball", seconds=2.5)
    with calls(loaded) as made:
        rough = film("a red ball", seconds=2.5, vae=draft)
    assert made.calls == 0
    assert not same_film(path_of(whole[0]), path_of(rough[0]))
    assert entries("segments") == 2
    with calls(loaded) as made:
        again = film("a red ball", seconds=2.5, vae=draft)
    assert made.loads == []
    assert same_film(path_of(again[0]), path_of(rough[0]))


def _patched(vae):
    vae.patcher.patches = {"decoder.middle.0.residual.2.weight": []}


def _nameless(vae):
    vae.patcher.cached_patcher_init = None


@pytest.mark.parametrize("change, kept", [(_patched, 0), (_nameless, 1)], ids=["patched", "of no file"])
def test_a_vae_that_we_did_not_load(film, loaded, change, kept):
    vae = load_vae(file_of(loaded.vae))
    change(vae)
    one = film("a red ball", seconds=2.5, vae=vae)
    assert (entries("chunks"), entries("segments")) == (1, kept)
    with calls(loaded) as made:
        other = film("a red ball", seconds=2.5, vae=vae)
    assert made.loads == ["WanVAE"] * (1 - kept)
    assert same_film(path_of(one[0]), path_of(other[0]))


def test_a_model_with_unnamed_changes_passes_the_store_by(film, loaded, page, caplog):
    other = loaded.model.clone()
    kind = "diffusion_model"
    other.add_wrapper_with_key(kind, "another pack", lambda executor, *a, **k: executor(*a, **k))
    made = film("a red ball", seconds=2.5, model=other)
    assert "The store is passed by" in caplog.text
    assert any("The store is passed by" in text and "another pack" in text for text in page.texts)
    assert not entries("chunks") + entries("segments") + entries("embeddings")
    assert same_film(path_of(made[0]), path_of(film("a red ball", seconds=2.5)[0]))


def test_a_lora_is_part_of_the_name(film, loaded, base):
    folder, width = base / "models" / "loras", loaded.model.model.diffusion_model.config.width
    folder.mkdir(parents=True)
    pair = {"lora_A.weight": random_tensor(2, width), "lora_B.weight": random_tensor(width, 2, seed=1)}
    save_file({f"blocks.1.attn.proj.{end}": t * 4 for end, t in pair.items()}, folder / "rain.safetensors")
    plain = film("a red ball", seconds=2.5)[1].state
    for strength in (0.5, 0.25):
        rainy = run("LoraLoader", loaded.model, "rain.safetensors", strength)
        with calls(loaded) as made:
            state = film("a red ball", seconds=2.5, model=rainy)[1].state
        assert made.calls == CALLS
        assert not same(state.history[0].latents, plain.history[0].latents)
        with calls(loaded) as made:
            film("a red ball", seconds=2.5, model=rainy)
        assert made.calls == 0
    management.load_models_gpu([])


def test_resume_off_makes_everything_again(film, loaded):
    one = film("a red ball", seconds=2.5)
    with calls(loaded) as made:
        other = film("a red ball", seconds=2.5, resume=False)
    assert made.calls == CALLS
    assert "WanVAE" in made.loads
    assert same_film(path_of(one[0]), path_of(other[0]))


def test_chunks_of_another_machine_are_taken_where_it_is_wished(film, loaded, monkeypatch):
    with monkeypatch.context() as elsewhere:
        from comfyui_sana_video.sana_video_core.transformer import maker

        elsewhere.setattr(maker, "compute_tag", lambda *_: "another machine")
        film("a red ball", seconds=2.5)
    with calls(loaded) as made:
        film("a red ball", seconds=2.5, any_machine=True)
    assert made.calls == 0
    with calls(loaded) as made:
        film("a red ball", seconds=2.5)
    assert made.calls == CALLS


# --- words


def test_it_says_its_plan_what_the_store_has_and_how_far_it_is(film, page, restart):
    film("a red ball rolls", seconds=5.0)
    plan = page.texts[0]
    assert plan.startswith("2 chunks · 1 scene · 81 frames · 5.1 s at 16 fps")
    assert "seed 3 · a red ball rolls" in plan
    assert all(text.startswith(plan) for text in page.texts)
    lines = [text.splitlines()[-1] for text in page.texts]
    assert any(
        line.startswith("chunk 1 of 2 · 2.6 of 5.1 s · about") and line.endswith("left") for line in lines
    )
    assert lines[-1].startswith("2 chunks · 5.1 s · took")
    assert page.pictures
    page.texts.clear()
    restart()
    film("a red ball rolls", seconds=7.5)
    assert "2 of 3 chunks are from the store." in page.texts[-1]
    lines = [text.splitlines()[-1] for text in page.texts]
    assert [line for line in lines if "memory back" in line] == [
        f"bringing the memory back, chunk {number} of 2" for number in (1, 2)
    ]
    assert lines[-1].startswith("3 chunks · 7.6 s · took")


# --- stops


@pytest.mark.parametrize("stop_at", [2, 2 * CALLS + 1])
def test_what_is_finished_when_it_is_stopped_is_a_film(
    film, loaded, base, restart, stop_at, straight, caplog
):
    with calls(loaded, stop_at) as made, pytest.raises(management.InterruptProcessingException):
        film()
    assert made.calls == stop_at
    assert not caplog.messages, "who stops it knows"
    names = [path.name for path in (base / "output" / "sana_films").glob("*.mp4")]
    finished = (stop_at - 2) // CALLS if stop_at > 2 * CALLS + 1 else (stop_at - 1) // CALLS
    assert names == (["film_00001_.mp4"] if finished else [])
    if finished:
        frames = frames_of(base / "output" / "sana_films" / names[0])
        assert len(frames) == [0, 41, 81, 121][finished]
    assert not [path for path in (base / "output" / "sana_films").iterdir() if path.name.startswith(".")]
    restart()
    again = film()
    assert same_film(path_of(again[0]), path_of(straight[0]))
    assert same_state(again[1], straight[1])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sana_video")]


def test_a_stop_while_the_rest_is_decoded_acts_at_once(film, loaded, base):
    film("a red ball", seconds=5.0)
    decode, seen = quick, []

    def stopped(self, pieces, **options):
        for pixels in decode(self, pieces, **options):
            seen.append(torch.is_inference_mode_enabled())
            if len(seen) == 2:
                management.interrupt_current_processing()
                time.sleep(0.5)
            yield pixels

    with patch.object(HostedDecoder, "decode_stream", stopped):
        with pytest.raises(management.InterruptProcessingException):
            film("a red ball", seconds=5.0, fps=24.0)
        assert len(seen) < 8
        film("a red ball", seconds=5.0, fps=24.0)
    assert all(seen), "in the mode in which ComfyUI runs nodes, also in a thread"


def test_a_decoders_warning_is_shown_on_the_node(film, loaded, page):
    decode = HostedDecoder.decode_stream

    def warning(self, *values, **options):
        logging.getLogger("sana_video").warning("Odd.")
        return decode(self, *values, **options)

    with patch.object(HostedDecoder, "decode_stream", warning):
        film("a red ball", seconds=2.5)
    assert "Odd." in page.texts[-1]
    assert threading.current_thread() is threading.main_thread()


def test_overlap_changes_no_bit(film, straight):
    made = film(overlap="on")
    assert same_film(path_of(made[0]), path_of(straight[0]))
    assert same_state(made[1], straight[1])
