"""Reads VAE files of both kinds: whole VAEs, and the tiny decoders that draft in the place of one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FileError
from ..files.finite import check_finite
from ..vae.decoders import VideoDecoder
from ..vae.ltx_config import LtxConfig
from ..vae.tiny_decoder import TinyDecoder
from ..vae.vae_config import VAEConfig
from .checkpoint import check_complete, ready
from .tiny_names import USE, kind_of, tiny_tensors
from .vae_file import build_vae, checked_vae, read_vae_file


class VAEWeights(NamedTuple):
    """What a VAE file holds, under the original's names."""

    tensors: dict[str, Tensor]
    draft: str | None  # which tiny decoder, None for a whole VAE
    config: VAEConfig | LtxConfig | None  # sizes of a whole VAE


def read_vae_or_draft(path: Path | str) -> VAEWeights:
    """A checked file of a whole VAE or a tiny decoder, whose encoder is kept. Raises FileError for others."""
    path = Path(path).absolute()
    file = read_vae_file(path)
    tiny = tiny_tensors(file.tensors)
    if tiny is None:
        tensors, config = checked_vae(file)
        return VAEWeights(tensors, None, config)
    kind = kind_of(path.name, tiny, file.beside)
    decoder = {name: tensor for name, tensor in tiny.items() if name.startswith("decoder.")}
    with torch.device("meta"):
        check_complete(TinyDecoder(kind), decoder, path, f"{kind} decoder")
    check_finite(tiny, path)
    return VAEWeights(tiny, kind, None)


def load_vae_or_draft(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> VideoDecoder:
    """What decodes latents, of any file that holds it. `dtype` None keeps the file's."""
    tensors, kind, config = read_vae_or_draft(path)
    if kind is not None:
        return _build(tensors, kind, device, dtype)
    assert config is not None, "a whole VAE comes with its sizes"
    return build_vae(tensors, config, device=device, dtype=dtype)


def load_draft(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> TinyDecoder:
    """A tiny decoder. Raises FileError for a whole VAE, too."""
    tensors, kind, config = read_vae_or_draft(path)
    if kind is None:
        assert config is not None, "a whole VAE comes with its sizes"
        raise FileError(f"“{Path(path).name}” is a whole {config.spec.name} VAE, no draft decoder. {USE}")
    return _build(tensors, kind, device, dtype)


def _build(
    tensors: dict[str, Tensor], kind: str, device: torch.device | str, dtype: torch.dtype | None
) -> TinyDecoder:
    with torch.device("meta"):
        decoder = TinyDecoder(kind)
    names = decoder.state_dict().keys()
    decoder.load_state_dict({name: tensors[name] for name in names}, assign=True)
    return ready(decoder, device, dtype)
