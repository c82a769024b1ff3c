"""The demo set: a small transformer, VAE and text encoder in the real formats, trained on drawn scenes.

It comes with the pack, so that every command runs on a bare machine. For tests and to try formats, a smaller
set with random weights can be written from a seed; it makes patterns, not scenes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..sana_video_core.checkpoints.checkpoint import save_transformer
from ..sana_video_core.config import DEMO, TransformerConfig
from ..sana_video_core.errors import FileError
from ..sana_video_core.files.hidden import hidden_folder
from ..sana_video_core.files.places import is_file, is_folder
from ..sana_video_core.files.tensor_file import write_tensors
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from .text_encoder import build_demo_text_encoder

FOLDER = Path(__file__).parent
VAE_CONFIG = VAEConfig(base_width=8)
# the transformer of `write_demo_set`: the demo's family at other sizes
TINY = TransformerConfig(
    channels=DEMO.config.channels,
    patch=DEMO.config.patch,
    width=112,
    depth=3,
    head_dim=28,
    cross_head_dim=28,
    ffn_hidden=336,
    caption_channels=32,
)


class DemoSet(NamedTuple):
    """The paths of the three models of a set."""

    transformer: Path
    vae: Path
    text_encoder: Path

    @classmethod
    def at(cls, folder: Path) -> DemoSet:
        return cls(
            folder / "demo_transformer.safetensors", folder / "demo_vae.safetensors", folder / "demo_text"
        )

    def files(self) -> tuple[Path, ...]:
        """Every file of a complete set."""
        text = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        return self.transformer, self.vae, *(self.text_encoder / name for name in text)


def demo_set() -> DemoSet:
    """The trained set that comes with the pack. Raises FileError when one of its files is missing."""
    paths = DemoSet.at(FOLDER)
    for path in paths.files():
        if not is_file(path):
            raise FileError(
                f"The demo's file “{path.relative_to(FOLDER.parent).as_posix()}” is not in this pack's "
                f"folder “{FOLDER.parent}”, so the folder is incomplete. Get the pack again."
            )
    return paths


def write_demo_set(folder: Path | str, *, seed: int = 0) -> DemoSet:
    """Write a `TINY` set with weights drawn from `seed` to a new folder, complete or not at all."""
    folder = Path(folder)
    if is_file(folder) or is_folder(folder):
        raise FileError(
            f"“{folder}” exists already. Choose a new folder for the demo set, or remove this one."
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hidden_folder(folder) as hidden:
            complete = hidden / "set"
            complete.mkdir()
            (hidden / folder.name).touch()  # before the work: the name may be what this disk doesn't take
            _write(DemoSet.at(complete), seed)
            complete.rename(folder)
    except Exception as error:
        # tokenizers raises plain exceptions when a file cannot be written
        if not isinstance(error, OSError | SafetensorError) and type(error) is not Exception:
            raise
        if is_folder(DemoSet.at(folder).text_encoder):  # another process wrote the same set meanwhile
            return DemoSet.at(folder)
        # a FileError's message names a temporary file, which is gone
        reason = error.__cause__ if isinstance(error, FileError) else error
        reason = getattr(reason, "strerror", None) or reason
        raise FileError(
            f"The demo set cannot be written to “{folder}” ({reason}). "
            "Nothing was left behind; free some space or choose another folder."
        ) from error
    return DemoSet.at(folder)


def _write(paths: DemoSet, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):  # the constructors draw initial weights
        transformer, vae = SanaVideo(TINY, DEMO), WanVAE(VAE_CONFIG)
    seeded(transformer, seed)
    save_transformer(paths.transformer, transformer.state_dict(), TINY, DEMO.name)
    seeded(vae, seed + 1)
    tensors = vae.state_dict()
    # random weights overshoot; this keeps pictures within the range
    tensors["decoder.head.2.weight"] = tensors["decoder.head.2.weight"] * 0.5
    write_tensors(paths.vae, tensors, {"note": "random weights of the demo set"})
    build_demo_text_encoder(paths.text_encoder, seed=seed + 2, width=TINY.caption_channels)


def seeded(module: nn.Module, seed: int) -> nn.Module:
    """The module with every parameter drawn from `seed`, at a scale that keeps activations near 1.

    Norm weights are spread around 1 and no bias is 0, so that tests with these weights see each of them.
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
