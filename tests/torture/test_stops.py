"""Ctrl-C at any moment of a film's work, once or several times: it ends, and what is there is whole.

`python -m pytest tests/torture/test_stops.py --full -s` stops 80 films in some minutes; the suite stops one.
"""

import os
import random
import signal
import time
from pathlib import Path

import av
import pytest

if os.name != "posix":
    pytest.skip("signals as POSIX has them", allow_module_level=True)

from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.sana_video_core.files.video_reader import read_metadata
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state
from killed import write
from support.calibration import limit, until
from test_kills import begin, hidden

CHUNKS = 3
FRAMES = {0: 0, 1: 41, 2: 81, 3: 121}  # of so many chunks


def pytest_generate_tests(metafunc):
    whole = metafunc.config.getoption("--full")
    cases = [(overlap, seed) for overlap in ("on", "off") for seed in range(40)] if whole else [("on", None)]
    metafunc.parametrize("overlap, seed", cases)


def generate(overlap):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    words = ["--size", "64x32", "--steps", "1", "--chunks", CHUNKS, "--overlap", overlap]
    names = ["--out", "v.mp4", "--sheet", "v.png", "--state-out", "s.safetensors"]
    return main(["generate", "a", *map(str, words), *names])


def ended(child):
    """The exit status. Fails if the process hangs."""
    last = time.monotonic() + limit(60)
    while time.monotonic() < last:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("it hangs")


def duration(overlap, folder, known={}):  # noqa: B006  measured once
    if overlap not in known:
        began = time.monotonic()
        assert ended(begin(lambda: generate(overlap), folder)) == 0
        known[overlap] = time.monotonic() - began
    return known[overlap]


def frames_in(path):
    with av.open(str(path)) as film:
        frames = sum(packet.size > 0 and not packet.is_corrupt for packet in film.demux(video=0))
        assert frames == film.streams.video[0].frames
    return frames


def test_a_film_that_is_stopped_is_whole(overlap, seed, tmp_path, monkeypatch):
    chance = random.Random(f"{overlap} {seed}")
    wait = 0 if seed is None else chance.uniform(0.5, 1.05) * duration(overlap, tmp_path / "whole")
    times = 1 if seed is None else chance.choice((1, 1, 2, 3))
    folder = tmp_path / "stopped"
    child = begin(lambda: generate(overlap), folder)
    time.sleep(wait)
    if seed is None:  # in the suite, once there is something to keep
        until((folder / "s.safetensors").exists, 60)
    for _ in range(times):
        os.kill(child, signal.SIGINT)
        time.sleep(chance.uniform(0.001, 0.2))
    status = ended(child)
    film, state = folder / "v.mp4", folder / "s.safetensors"
    frames = frames_in(film) if film.exists() else 0
    chunks = len(load_state(state).history) if state.exists() else 0
    print(f"{overlap} {seed}: {times} at {wait:.3f} s, status {status}, {chunks} chunks, {frames} frames")  # noqa: T201
    assert status in (0, 130) or times > 1  # the second may come where the first one is told
    # stopped within the writing of a state, its chunk is in the film only; a second stop, or one after the
    # last chunk was sampled, ends the decoding
    most = (FRAMES[chunks], FRAMES[min(chunks + 1, CHUNKS)])
    assert frames in most or (frames < most[1] and (times > 1 or chunks == CHUNKS))
    assert not frames or len(read_metadata(film)["prompts"]) in (chunks, chunks + 1)
    assert times > 1 or not hidden(folder)
    monkeypatch.chdir(folder)
    for name in ("v.mp4", "v.png", "s.safetensors"):
        write(name)
    assert not hidden(folder)
    assert not list(Path().glob("temp*"))
