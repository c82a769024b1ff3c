"""Reads VAE files of both kinds: the whole Wan 2.1 VAE, and the tiny decoders that draft in its place."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FileError
from ..files.finite import check_finite
from ..vae.decoders import VideoDecoder
from ..vae.tiny_decoder import TinyDecoder
from .checkpoint import build_vae, check_complete, checked_vae, read_vae_tensors, ready
from .tiny_names import USE, kind_of, tiny_tensors


class VAEWeights(NamedTuple):
    """What a VAE file holds, under the original's names."""

    tensors: dict[str, Tensor]
    draft: str | None  # which tiny decoder, None for a whole VAE


def read_vae_or_draft(path: Path | str) -> VAEWeights:
    """A checked file of a whole VAE or a tiny decoder, whose encoder is kept. Raises FileError for others."""
    path = Path(path).absolute()
    tensors, config = read_vae_tensors(path)
    tiny = tiny_tensors(tensors)
    if tiny is None:
        return VAEWeights(checked_vae(path, tensors), None)
    kind = kind_of(path.name, tiny, config)
    decoder = {name: tensor for name, tensor in tiny.items() if name.startswith("decoder.")}
    with torch.device("meta"):
        check_complete(TinyDecoder(kind), decoder, path, f"{kind} decoder")
    check_finite(tiny, path)
    return VAEWeights(tiny, kind)


def load_vae_or_draft(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> VideoDecoder:
    """What decodes Wan 2.1's latents, of any file that holds it. `dtype` None keeps the file's."""
    tensors, kind = read_vae_or_draft(path)
    if kind is None:
        return build_vae(tensors, device=device, dtype=dtype)
    return _build(tensors, kind, device, dtype)


def load_draft(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> TinyDecoder:
    """A tiny decoder. Raises FileError for a whole VAE, too."""
    tensors, kind = read_vae_or_draft(path)
    if kind is None:
        raise FileError(f"“{Path(path).name}” is a whole Wan 2.1 VAE, no draft decoder. {USE}")
    return _build(tensors, kind, device, dtype)


def _build(
    tensors: dict[str, Tensor], kind: str, device: torch.device | str, dtype: torch.dtype | None
) -> TinyDecoder:
    with torch.device("meta"):
        decoder = TinyDecoder(kind)
    names = decoder.state_dict().keys()
    decoder.load_state_dict({name: tensors[name] for name in names}, assign=True)
    return ready(decoder, device, dtype)
