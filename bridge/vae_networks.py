"""Our video VAEs around the layers of ComfyUI's, which are named alike.

They share layers, not tensors: ComfyUI exchanges, casts and fetches what belongs to a layer. Imported when a
VAE is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import comfy.ops
import comfy.sd
import torch
from torch import Tensor, nn

from ..sana_video_core.config import LTX_2, LTX_2_3, WAN_2_1
from ..sana_video_core.errors import InputError
from ..sana_video_core.vae.layers import RMSNorm, rms_norm
from ..sana_video_core.vae.ltx_config import BOTH, SPACE, TIME, LtxConfig
from ..sana_video_core.vae.ltx_vae import LtxVAE
from ..sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from .drafts import shapes_of
from .networks import hosted_weights

STEPS = {SPACE: "space", TIME: "time", BOTH: "all"}  # of LTX's levels, in ComfyUI's words


class HostedWan(WanVAE):
    """The Wan 2.1 VAE."""

    def __init__(self, vae: comfy.sd.VAE, shapes: Mapping[str, torch.Size]) -> None:
        with torch.device("meta"):
            super().__init__(VAEConfig.from_state_dict(shapes))
        _check_same(self, vae, shapes)
        self._dtype, self.weights_of = vae.vae_dtype, _lent
        for name, layer in list(self.named_modules()):
            if layer._parameters:
                _replace(self, name, _hosted(layer, vae.first_stage_model.get_submodule(name)))

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype


class HostedLtx(LtxVAE):
    """The LTX-2 or LTX-2.3 video VAE."""

    def __init__(self, vae: comfy.sd.VAE, shapes: Mapping[str, torch.Size]) -> None:
        theirs = vae.first_stage_model
        causal = bool(getattr(theirs.get_submodule("decoder"), "causal", False))
        with torch.device("meta"):
            super().__init__(LtxConfig.from_state_dict(shapes, causal=causal))
        _check_same(self, vae, shapes)
        self._dtype, self.weights_of = vae.vae_dtype, _lent
        for name, layer in list(self.named_modules()):
            if layer._parameters or layer._buffers:
                _replace(self, name, theirs.get_submodule(name))

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype


def hosted_network(vae: comfy.sd.VAE) -> HostedWan | HostedLtx:
    """Ours around a VAE of ComfyUI's. Raises InputError for a VAE of another model."""
    shapes = shapes_of(vae.first_stage_model)
    kind = HostedLtx if any(name.startswith("decoder.up_blocks.") for name in shapes) else HostedWan
    try:
        return kind(vae, shapes)
    except InputError as error:
        raise InputError(_foreign(vae)) from error


def _check_same(ours: HostedWan | HostedLtx, vae: comfy.sd.VAE, shapes: Mapping[str, torch.Size]) -> None:
    """Raises InputError unless a VAE has our names and sizes, and latents of as many channels."""
    if shapes != shapes_of(ours) or vae.latent_channels != ours.spec.channels:
        raise InputError(_foreign(vae))


def _foreign(vae: comfy.sd.VAE) -> str:
    known = ", ".join(f"the {spec.name} VAE ({spec.files})" for spec in (WAN_2_1, LTX_2, LTX_2_3))
    return (
        f"This VAE is a {type(vae.first_stage_model).__name__} of {vae.latent_channels} latent channels, "
        f"which SANA-Video doesn't use. Connect the one that belongs to your model: {known}."
    )


def described(config: LtxConfig) -> dict[str, Any]:
    """The sizes of an LTX VAE as its published files say them: ComfyUI reads them nowhere else."""

    def levels(widths: tuple[int, ...], blocks: tuple[int, ...], steps: list[Any]) -> list[Any]:
        rooms = [["res_x", {"num_layers": count}] for count in blocks]
        return [rooms[0], *(part for pair in zip(steps, rooms[1:], strict=True) for part in pair)]

    wide, narrow = config.encoder_widths, config.decoder_widths
    downs = [
        [f"compress_{STEPS[factor]}_res", {"multiplier": after // before}]
        for factor, before, after in zip(config.downs, wide, wide[1:], strict=False)
    ]
    ups = [
        [f"compress_{STEPS[factor]}", {"residual": config.shortcut, "multiplier": before // after}]
        for factor, before, after in zip(config.ups, narrow, narrow[1:], strict=False)
    ]
    return {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "latent_channels": config.latent_channels,
        "encoder_base_channels": wide[0],
        "decoder_base_channels": narrow[-1],
        "encoder_blocks": levels(wide, config.encoder_blocks, downs),
        # from the last to the first
        "decoder_blocks": levels(narrow, config.decoder_blocks, ups)[::-1],
        # of both; by itself the decoder mirrors its borders
        **({"spatial_padding_mode": "zeros"} if config.padding == "zeros" else {}),
        "causal_decoder": config.causal,
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "patch_size": 4,
        "timestep_conditioning": False,
    }


class HostedConv3d(nn.Module):
    """ComfyUI's causal convolution without its padding in time: our layers bring the past."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return comfy.ops.disable_weight_init.Conv3d.forward(self.layer, x)  # pyright: ignore[reportArgumentType]


class HostedNorm(nn.Module):
    """ComfyUI's norm, squared and summed in float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.layer.gamma.to(x))  # pyright: ignore[reportArgumentType, reportCallIssue]


@contextmanager
def _lent(layer: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """What a layer of ours computes with."""
    if isinstance(layer, HostedNorm):
        yield cast(Tensor, layer.layer.gamma).to(like), None
        return
    with hosted_weights(layer.layer if isinstance(layer, HostedConv3d) else layer, like) as weights:
        yield weights


def _hosted(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    kinds = {RMSNorm: HostedNorm, nn.Conv3d: HostedConv3d}
    return kinds[type(ours)](theirs) if type(ours) in kinds else theirs


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, layer)
