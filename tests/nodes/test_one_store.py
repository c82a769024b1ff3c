"""The film node, a chain of Block Samplers and the command line are one law: one store, the same bits."""

from __future__ import annotations

import os
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from comfyui_sana_video.bridge import films, sampling
from comfyui_sana_video.bridge.chunk_store import output_store
from comfyui_sana_video.command_line import models as chosen
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.demo import model_set
from comfyui_sana_video.sana_video_core.streaming.rebuild import MemoryCache
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state
from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo
from support.artist import DEMO, folders, run
from support.comfyui import frames_of
from support.pack import same

SCRIPT = "0:00 a ball\n0:05 a cube\n0:07.5 cut: a ball\n0:10 end"
WIDTH, HEIGHT, STEPS = 32, 16, 2
MADE = 4 * (STEPS + 1) + 1  # model calls of its four chunks, and a recache
WAYS = ("film node", "samplers", "command line")


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    """A set whose files stay, as the nodes load it; the command line takes the same."""
    folder = tmp_path_factory.mktemp("models") / "set"
    # the command line may have taken the name already, whatever ran before
    with patch.object(model_set, "demo_set") as built_in, patch.object(chosen, "demo_set", built_in):
        built_in.return_value = model_set.write_demo_set(folder)
        for path in folder.rglob("*"):
            os.utime(path, (0, 0))  # what changed just now is hashed again each time
        loaded = SimpleNamespace(
            model=run("ModelLoader", DEMO, "auto"),
            encoder=run("TextEncoderLoader", DEMO),
            vae=run("VAELoader", DEMO),
        )
        yield loaded


def film_node(models, _):
    inputs = {"model": models.model, "text_encoder": models.encoder, "vae": models.vae, "script": SCRIPT}
    inputs |= {"seconds": 1.0, "width": WIDTH, "height": HEIGHT, "seed": 3, "fps": 16.0}
    return run("LongVideo", **inputs, filename_prefix="film", steps=STEPS)[1].state


def samplers(models, _):
    texts = [run("TextEncode", models.encoder, text, 10, True) for text in ("a ball", "a cube")]
    state = run("Start", models.model, WIDTH, HEIGHT, 1)
    for text, seed, change in ((0, 3, "recache"), (0, 3, "recache"), (1, 3, "recache"), (0, 4, "cut")):
        how = {"chunks": 1, "seed": seed, "steps": STEPS, "sampler": "few_step", "store": True}
        state = run("BlockSampler", models.model, texts[text], state, on_prompt_change=change, **how)[1]
    return state.state


def command_line(_, base):
    script, end = base / "script.txt", base / "end.safetensors"
    script.write_text(SCRIPT, encoding="utf-8")
    how = ["--seed", "3", "--size", f"{WIDTH}x{HEIGHT}", "--steps", str(STEPS), "--motion-score", "10"]
    how += ["--store", str(output_store().folder), "--out", str(base / "film.mp4")]
    assert main(["film", str(script), *how, "--state-out", str(end), "--light"]) == 0
    return load_state(end)


MAKE = dict(zip(WAYS, (film_node, samplers, command_line), strict=True))


@contextmanager
def calls():
    """Counts the calls of any model in the block."""
    made, inner = SimpleNamespace(calls=0), SanaVideo._run

    def counted(self, *arguments):
        made.calls += 1
        return inner(self, *arguments)

    with patch.object(SanaVideo, "_run", counted):
        yield made


def made_by(way, models, base, monkeypatch):
    """The state, and how often a model was called; the process has forgotten all before."""
    monkeypatch.setattr(sampling, "INTERRUPTED", sampling.InterruptedRun())
    monkeypatch.setattr(sampling, "MEMORIES", MemoryCache())
    monkeypatch.setattr(films, "MEMORIES", sampling.MEMORIES)
    with calls() as made:
        return MAKE[way](models, base), made.calls


def told(state) -> list[tuple]:
    return [(c.prompt, c.digest, c.scene, c.seed, c.entry, c.key, c.anywhere) for c in state.history]


def same_history(a, b) -> bool:
    pairs = zip(a.history, b.history, strict=True)
    return told(a) == told(b) and all(same(one.latents, other.latents) for one, other in pairs)


def test_one_law_one_store(models, tmp_path, monkeypatch):
    """Each alone makes everything, to the same bits; whoever comes second to a store makes nothing."""
    states = {}
    for way in WAYS:
        with folders(tmp_path / way):
            (tmp_path / way).mkdir()
            states[way], made = made_by(way, models, tmp_path / way, monkeypatch)
            assert made == MADE, way
            for other in set(WAYS) - {way}:
                state, made = made_by(other, models, tmp_path / way, monkeypatch)
                assert made == 0, f"{other} after {way}"
                assert same_history(state, states[way]), f"{other} after {way}"
    for way in WAYS[1:]:
        assert same_history(states[way], states[WAYS[0]]), way
    films = (tmp_path / WAYS[0] / "output" / "film_00001_.mp4", tmp_path / WAYS[2] / "film.mp4")
    one, other = (frames_of(film) for film in films)
    assert len(one) == 162
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
