"""ComfyUI's tiny video decoders (its TAEHV) that show Wan 2.1's latents, run as our stream.

ComfyUI tells decoders of 16 channels apart by the type of their weights, and takes taew2_1, which it doesn't
know, for HunyuanVideo's: it then reads latents in another scale. So what a decoder reads is set here.
"""

from __future__ import annotations

from pathlib import Path

import comfy.latent_formats
import comfy.sd
import torch
from torch import Tensor, nn

from ..sana_video_core.checkpoints.tiny_names import LAST, not_ours, other_model, said_kind
from ..sana_video_core.config import WAN_2_1
from ..sana_video_core.errors import InputError
from ..sana_video_core.vae.statistics import to_model_space, to_vae_space
from ..sana_video_core.vae.tiny_decoder import LIGHTTAEW2_1, TAEW2_1, TinyDecoder


def is_tiny(vae: comfy.sd.VAE) -> bool:
    """Whether a VAE is of TAEHV's kind."""
    return LAST in shapes_of(vae.first_stage_model)


def read_as(vae: comfy.sd.VAE, kind: str) -> None:
    """Make ComfyUI's own nodes, too, give a tiny decoder the latents that it reads. For a VAE of our own."""
    network = vae.first_stage_model
    if kind == TAEW2_1:
        network.latent_format = comfy.latent_formats.Wan21
        network.process_in, network.process_out = _normalised, _raw
    else:
        network.latent_format, network.process_in, network.process_out = None, _same, _same


def _normalised(latents: Tensor) -> Tensor:
    return to_model_space(latents, WAN_2_1).to(latents)


def _raw(latents: Tensor) -> Tensor:
    return to_vae_space(latents, WAN_2_1).to(latents)


def _same(latents: Tensor) -> Tensor:
    return latents


class HostedTinyDecoder(TinyDecoder):
    """Our network around the layers of ComfyUI's, which are named alike."""

    def __init__(self, vae: comfy.sd.VAE) -> None:
        name, theirs = _file_name(vae), shapes_of(vae.first_stage_model)
        with torch.device("meta"):
            super().__init__(said_kind(name) or _kind_by_format(vae.first_stage_model))
        other = other_model(name, theirs)
        if other or any(theirs.get(key) != shape for key, shape in shapes_of(self).items()):
            raise InputError(f"This VAE is {not_ours(other or 'another model')}")
        self._dtype = vae.vae_dtype
        for path, layer in list(self.named_modules()):
            if layer._parameters:
                parent, _, leaf = path.rpartition(".")
                setattr(self.get_submodule(parent), leaf, vae.first_stage_model.get_submodule(path))

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    """Every tensor's shape by its name; without what torch.compile adds to names."""
    return {name.replace("_orig_mod.", ""): tensor.shape for name, tensor in network.state_dict().items()}


def _kind_by_format(network: nn.Module) -> str:
    """For a file whose name says nothing: without a format, ComfyUI hands latents over as they are."""
    return LIGHTTAEW2_1 if getattr(network, "latent_format", None) is None else TAEW2_1


def _file_name(vae: comfy.sd.VAE) -> str:
    """The name of the file that a VAE was loaded from, as ComfyUI notes it for loading it again."""
    loader = getattr(vae.patcher, "cached_patcher_init", None)
    path = loader[1][0] if loader and loader[1] else ""
    return Path(path).name if isinstance(path, (str, Path)) else ""
