"""ComfyUI is killed while the film node runs: restarted, the same prompt gives the same film and state.

`python -m pytest tests/torture/test_film_node_kills.py --full -s` kills 10 servers; the suite kills one.
"""

import contextlib
import random
import sys
import threading
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "comfy"))

from graphs import long_video, sampler, saved, saved_in
from support.comfyui import frames_of, needs_comfyui, running

SCRIPT = """0:00 a red ball rolls
0:05 the ball stops
0:10 cut: a blue cube falls
0:15 keep: the cube stops
0:20 end"""
CHUNKS, STEPS = 8, 2
FULL, SHORT = 10, 1

pytestmark = needs_comfyui


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(FULL if metafunc.config.getoption("--full") else SHORT))


def graph():
    """A film, its state as it is, and that after one more chunk: with its memory, whoever made the film."""
    film = long_video(SCRIPT, steps=STEPS, seconds=20.0)
    film["text"] = {
        "class_type": "SanaVideoTextEncode",
        "inputs": {"text_encoder": ["encoder", 0], "text": "snow", "motion_score": 10, "instruction": True},
    }
    film["more"] = sampler(["film", 1], steps=STEPS)
    film |= {"light": saved(["film", 1], "light", "history only"), "end": saved(["more", 1], "end")}
    return film


def states(base: Path) -> list[tuple]:
    """What is in the newest state of each kind: the bytes of all tensors, and what is written of them."""
    found = [(base / "output" / "sana_states").glob(f"{name}_*") for name in ("light", "end")]
    return [saved_in(max(paths, key=lambda path: path.stat().st_mtime)) for paths in found]


def entries(base: Path) -> int:
    return len(list((base / "output" / "sana_films" / "store" / "chunks").rglob("*.safetensors")))


def film_of(run):
    assert run.error is None, run.error["exception_message"]
    return next(frames_of(path) for path in run.files if path.suffix == ".mp4")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Frames, states, and the seconds that it took: nobody stopped it, and its store was empty."""
    base = tmp_path_factory.mktemp("straight")
    with running(base) as server:
        began = time.monotonic()
        run = server.run(graph())
        took = time.monotonic() - began
    assert "from the store" not in run.words["film"]
    assert entries(base) == CHUNKS
    return film_of(run), states(base), took


def killed(base: Path, seconds: float) -> int:
    """Chunks that were finished when the server was killed, as it told its page."""
    finished = 0

    def hear(kind, data):
        nonlocal finished
        if kind == "progress" and data["node"] == "film":
            finished = data["value"] // STEPS

    with running(base) as server:
        killer = threading.Timer(seconds, server.process.kill)
        killer.start()
        with contextlib.suppress(aiohttp.ClientError, OSError):
            server.run(graph(), on_event=hear)
        killer.join()
    return finished


def test_a_kill_costs_at_most_a_chunk(seed, straight, tmp_path):
    frames, expected, took = straight
    moment = random.Random(f"film {seed}").uniform(0.05, 1) * took
    finished = killed(tmp_path, moment)
    kept = entries(tmp_path)
    with running(tmp_path) as server:
        run = server.run(graph())
    said = [line for line in run.words["film"].splitlines() if "from the store" in line]
    known = int(said[0].split()[0]) if said else 0
    counts = f"{finished} finished, {kept} kept, {CHUNKS - known} sampled"
    print(f"seed {seed}: killed after {moment:.1f} s, {counts}")  # noqa: T201
    assert known == kept
    assert finished - kept <= 1, "made again"
    made = film_of(run)
    assert len(made) == len(frames)
    assert all(np.array_equal(a, b) for a, b in zip(made, frames, strict=True))
    assert states(tmp_path) == expected
    assert entries(tmp_path) == CHUNKS
    assert not [path for path in (tmp_path / "output").rglob("*") if path.name.startswith(".")]
