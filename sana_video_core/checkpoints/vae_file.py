"""Reads the files of whole VAEs: Wan 2.1's, LTX-2's and LTX-2.3's, alone or in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import LTX_2, LTX_2_3, WAN_2_1
from ..errors import FileError, InputError, OtherKindError
from ..files.finite import check_finite
from ..files.quantised import refuse_quantised
from ..vae.decoders import VideoVAE
from ..vae.ltx_config import LtxConfig
from ..vae.ltx_vae import LtxVAE
from ..vae.wan_vae import VAEConfig, WanVAE
from .checkpoint import check_complete, examples, read_folder_or_file, ready
from .keys import canonical_vae, without_prefix
from .ltx_names import canonical_ltx, is_ltx, refuse_relatives, says_causal, warn_of_others
from .tiny_names import is_of_pictures, tiny_tensors

VAE_PREFIX = "vae."  # of a checkpoint with all networks


def load_vae(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> VideoVAE:
    """The whole VAE in a file (named as by the original, ComfyUI or diffusers) or a diffusers folder."""
    file = read_vae_file(Path(path).absolute())
    return build_vae(*checked_vae(file), device=device, dtype=dtype)


def build_vae(
    tensors: Mapping[str, Tensor],
    config: VAEConfig | LtxConfig,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> VideoVAE:
    """The network of what `checked_vae` returns."""
    with torch.device("meta"):
        vae = _network_of(config)
    vae.load_state_dict(tensors, assign=True)
    return ready(vae, device, dtype)


class VAEFile(NamedTuple):
    """A VAE's file or folder as it is: tensors of any spelling, its metadata, the config.json beside it."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    beside: dict[str, Any]


def read_vae_file(path: Path) -> VAEFile:
    """What a VAE's file says; of a checkpoint with other networks, the VAE only."""
    tensors, metadata, beside = read_folder_or_file(path, "vae", VAE_PREFIX)
    part = {name.removeprefix(VAE_PREFIX): tensor for name, tensor in tensors.items()}
    # a checkpoint's mark of quantisation may be of its other networks
    refuse_quantised(path.name, part, metadata if part.keys() == tensors.keys() else {}, beside)
    return VAEFile(path, without_prefix(part), metadata, beside)


def checked_vae(file: VAEFile) -> tuple[dict[str, Tensor], VAEConfig | LtxConfig]:
    """One whole VAE's tensors, under the original's names, and sizes. Raises FileError for others."""
    path, tensors = file.path, canonical_vae(file.tensors)
    refuse_relatives(path, tensors)
    if is_ltx(tensors):
        tensors = canonical_ltx(tensors)
    elif "decoder.head.0.gamma" not in tensors or "decoder.middle.0.residual.0.gamma" not in tensors:
        kind, what = _what_it_is(tensors)
        raise kind(
            f"“{path.name}” isn't a Wan 2.1 VAE, nor an LTX-2 one ({what}). Use {WAN_2_1.files}, or the vae "
            f"folder of a SANA-Video pipeline; for 720p {LTX_2.files}, for SANA-Video 2.0 {LTX_2_3.files}."
        )
    empty = [name for name, tensor in tensors.items() if not tensor.ndim or not tensor.numel()]
    if empty:
        raise FileError(
            f"“{path.name}” is damaged: there is nothing in{examples(empty)}. Copy or download it again."
        )
    config = _sizes(file, tensors)
    with torch.device("meta"):
        network = _network_of(config)
    check_complete(network, tensors, path, f"{network.spec.name} VAE")
    check_finite(tensors, path)
    if isinstance(config, LtxConfig):
        warn_of_others(path, tensors, config)
    return tensors, config


def _sizes(file: VAEFile, tensors: Mapping[str, Tensor]) -> VAEConfig | LtxConfig:
    try:
        if not is_ltx(tensors):
            return VAEConfig.from_state_dict(tensors)
        causal = says_causal(file.path, file.metadata, file.beside)
        return LtxConfig.from_state_dict(tensors, causal=causal)
    except InputError as error:
        raise FileError(f"“{file.path.name}” can't be used. {error}") from error


def _network_of(config: VAEConfig | LtxConfig) -> VideoVAE:
    return LtxVAE(config) if isinstance(config, LtxConfig) else WanVAE(config)


def _what_it_is(tensors: Mapping[str, Tensor]) -> tuple[type[FileError], str]:
    if tiny_tensors(tensors) is not None:
        return FileError, "it is a tiny decoder, which drafts and can't encode"
    if is_of_pictures(tensors):
        return FileError, "it is a tiny autoencoder of pictures, such as TAESD"
    return OtherKindError, f"it has {len(tensors)} tensors{examples(tensors)}"
