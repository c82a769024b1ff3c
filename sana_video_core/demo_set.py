"""The demo set: a tiny transformer, VAE and text encoder in the real file formats, from a seed.

It makes every command run on a bare machine. The weights are random, so the pictures are patterns and not scenes.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .checkpoint import save_transformer
from .config import DEMO
from .demo_text import build_demo_text_encoder
from .errors import FileError
from .model import SanaVideo
from .tensor_file import write_tensors
from .wan_vae import VAEConfig, WanVAE

# counts up whenever other weights come out of `write_demo_set`, so that old sets are not taken for new
REVISION = 2
VAE_CONFIG = VAEConfig(base_width=8)


class DemoSet(NamedTuple):
    """Where the three models of a set lie."""

    transformer: Path
    vae: Path
    text_encoder: Path

    @classmethod
    def at(cls, folder: Path) -> DemoSet:
        return cls(
            folder / "demo_transformer.safetensors", folder / "demo_vae.safetensors", folder / "demo_text"
        )


def demo_set() -> DemoSet:
    """The demo set in the user's cache folder; written on first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "comfyui_sana_video" / f"demo-{REVISION}"
    return DemoSet.at(folder) if _exists(folder) else write_demo_set(folder)


def write_demo_set(folder: Path | str, *, seed: int = 0) -> DemoSet:
    """Write the set into a new folder, which appears complete or not at all. The same seed gives the same weights."""
    folder = Path(folder)
    if _exists(folder):
        raise FileError(
            f"“{folder}” exists already. Choose a new folder for the demo set, or remove this one."
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
            complete = Path(name) / folder.name
            complete.mkdir()
            _write(DemoSet.at(complete), seed)
            complete.rename(folder)
    except Exception as error:
        # tokenizers raises plain exceptions when a file cannot be written
        if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:
            raise
        if _exists(DemoSet.at(folder).text_encoder):  # somebody else wrote the same set meanwhile
            return DemoSet.at(folder)
        # a FileError's own words name a temporary file, which is gone
        reason = error.__cause__ if isinstance(error, FileError) else error
        raise FileError(
            f"The demo set cannot be written to “{folder}” ({reason}). Nothing was left behind; free some space or choose "
            "another folder."
        ) from error
    return DemoSet.at(folder)


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError:  # a place that the system refuses; writing there will tell why
        return False


def _write(paths: DemoSet, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):  # the constructors draw their own first weights
        transformer, vae = SanaVideo(DEMO.config, DEMO), WanVAE(VAE_CONFIG)
    seeded(transformer, seed)
    save_transformer(paths.transformer, transformer.state_dict(), DEMO.config, DEMO.name)
    seeded(vae, seed + 1)
    tensors = vae.state_dict()
    # random weights overshoot: the last convolution is scaled until pictures stay within the range
    tensors["decoder.head.2.weight"] = tensors["decoder.head.2.weight"] * 0.5
    write_tensors(paths.vae, tensors, {"note": "random weights of the demo set"})
    build_demo_text_encoder(paths.text_encoder, seed=seed + 2)


def seeded(module: nn.Module, seed: int) -> nn.Module:
    """The module with every parameter drawn from `seed`, at a scale that keeps activations near 1.

    Norm weights are spread around 1 and no bias is 0, so that a test on these weights sees every one of them.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: _drawn(name, tensor, generator) for name, tensor in module.state_dict().items()}
    module.load_state_dict(tensors, strict=True)
    return module.eval().requires_grad_(False)


def _drawn(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.randn(like.shape, generator=generator)
    if "norm" in name or name.endswith("gamma"):
        return 1 + 0.1 * values
    if like.ndim == 1 or name.endswith("scale_shift_table"):
        return 0.1 * values
    return values / math.sqrt(like[0].numel())
