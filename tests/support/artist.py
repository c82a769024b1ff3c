"""What an artist does with the nodes: random models of the demo's size, small pictures, temporary folders."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import folder_paths
import pytest
import torch
from comfyui_sana_video.demo import model_set
from comfyui_sana_video.nodes import NODES
from comfyui_sana_video.sana_video_core.config import WAN_2_1
from comfyui_sana_video.sana_video_core.errors import SanaVideoError
from comfyui_sana_video.sana_video_core.vae.statistics import to_vae_space
from support.pack import same

DEMO = "demo (built in)"
WIDTH, HEIGHT = 48, 32
NAMED = {node.__name__: node for node in NODES}


def node(name: str):
    """A node class by its id without the prefix SanaVideo."""
    return NAMED[f"SanaVideo{name}"]


def run(name: str, *values, **options):
    """A node's output, or the tuple of its outputs. Without gradients, as ComfyUI runs nodes."""
    outputs = output_of(name, *values, **options).args
    return outputs[0] if len(outputs) == 1 else outputs


def output_of(name: str, *values, **options):
    """All that a node returns: `args` and what it shows."""
    with torch.inference_mode():
        return node(name).execute(*values, **options)


@contextmanager
def folders(base: Path):
    """ComfyUI's models, input, output and temp under one folder, inside the block."""
    folder_paths.set_base_directory(base)
    try:
        yield base
    finally:
        folder_paths.set_base_directory(".")


@cache
def demo() -> SimpleNamespace:
    """What the loaders return for a random set: loaded once, as ComfyUI caches it. Nobody may write to it."""
    with tempfile.TemporaryDirectory() as folder, patch.object(model_set, "demo_set") as built_in:
        built_in.return_value = model_set.write_demo_set(Path(folder) / "set")
        encoder = run("TextEncoderLoader", DEMO)
        texts = {"positive": "a red ball rolls", "other": "a blue cube falls"}
        return SimpleNamespace(
            model=run("ModelLoader", DEMO, "auto"),
            bidirectional=run("ModelLoader", DEMO, "sana_video_480p"),
            vae=run("VAELoader", DEMO),
            encoder=encoder,
            **{name: run("TextEncode", encoder, text, 10, False) for name, text in texts.items()},
        )


def start(batch: int = 1, width: int = WIDTH, height: int = HEIGHT):
    return run("Start", demo().model, width, height, batch)


def sample(state=None, chunks: int = 1, *, positive=None, model=None, **changes):
    """Block Sampler: (latent, state, frames)."""
    state = start() if state is None else state
    options = {"seed": 3, "steps": 2, "sampler": "few_step", "on_prompt_change": "recache", **changes}
    return run(
        "BlockSampler", model or demo().model, positive or demo().positive, state, chunks=chunks, **options
    )


@cache
def one_chunk():
    """A stream of one chunk: (latent, state, frames). One object for every test, as for every consumer."""
    return sample()


@cache
def two_chunks():
    """A stream of two chunks, made by one sampler: (latent, state, frames)."""
    return sample(chunks=2)


@cache
def decoded():
    """All 81 frames of `two_chunks`, [81, 32, 48, 3]."""
    return run("Decode", demo().vae, two_chunks()[0])


def same_state(a, b) -> bool:
    """Two sockets hold the same stream: bit-identical tensors, and equal records."""
    histories = [
        [(c.prompt, c.digest, c.scene, c.seed, c.primed, c.loras) for c in socket.state.history]
        for socket in (a, b)
    ]
    return (
        a.state.identity == b.state.identity
        and a.state.scene == b.state.scene
        and histories[0] == histories[1]
        and len(a.tensors) == len(b.tensors)
        and all(same(x, y) for x, y in zip(a.tensors, b.tensors, strict=True))
    )


@contextmanager
def refused(*words: str):
    """The block has to raise one of our errors, with all these words in its message."""
    with pytest.raises(SanaVideoError) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def latents(chunk):
    """A chunk of a history in VAE space."""
    return to_vae_space(chunk.latents, WAN_2_1)


def picture(height: int = HEIGHT, width: int = WIDTH, count: int = 1):
    """Pictures [count, H, W, 3] in [0, 1]."""
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(0))
