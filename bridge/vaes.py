"""VAEs: ours in a patcher, and ComfyUI's own, both as streaming decoders. Imported when one is used."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ..sana_video_core.checkpoints.checkpoint import load_vae
from ..sana_video_core.config import WAN_2_1, VAESpec
from ..sana_video_core.errors import InputError
from ..sana_video_core.shapes import LatentGrid
from ..sana_video_core.vae.tiling import Tiling
from ..sana_video_core.vae.wan_vae import WanVAE
from .progress import interrupted

# bytes for decoding per latent pixel and byte of the dtype: the causal cache and one step's activations,
# measured on full-size weights (docs/log.md)
DECODE_BYTES = 480_000

logger = logging.getLogger("sana_video")


class HostedVae:
    """Our Wan 2.1 VAE, moved by ComfyUI."""

    def __init__(self, vae: WanVAE) -> None:
        management = comfy.model_management
        self.vae, self.device, self.spec = vae, management.vae_device(), vae.spec
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            vae, load_device=self.device, offload_device=management.vae_offload_device()
        )

    @classmethod
    def load(cls, path: Path) -> HostedVae:
        dtype = comfy.model_management.vae_dtype(
            comfy.model_management.vae_device(), [torch.bfloat16, torch.float32]
        )
        return cls(load_vae(path, operations=comfy.ops.disable_weight_init, dtype=dtype))

    def load_for(self, batch: int, grid: LatentGrid) -> None:
        """Load the weights, with room for one step of this size."""
        itemsize = self.vae.conv2.weight.element_size()
        needed = batch * grid.area * itemsize * DECODE_BYTES
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)

    def decode_stream(self, pieces: Iterable[Tensor], *, tiling: Tiling | None = None) -> Iterator[Tensor]:
        """As `WanVAE.decode_stream`, but continues in tiles when memory runs out.

        The tiled decoding starts over and skips what was yielded, so `pieces` has to be iterable again.
        """
        made, frames = 0, self.vae.decode_stream(pieces, tiling=tiling)
        while True:
            try:
                pixels = next(frames, None)
            except torch.OutOfMemoryError:
                break  # leave the handler first: the error keeps tensors alive
            if pixels is None:
                return
            made += pixels.shape[2]
            yield pixels
        comfy.model_management.soft_empty_cache()
        logger.warning(
            "The GPU's memory is too small for whole pictures: decoding in tiles, a little less exact."
        )
        for pixels in self.vae.decode_stream(pieces, tiling=Tiling()):
            known = min(made, pixels.shape[2])
            made -= known
            if known < pixels.shape[2]:
                yield pixels[:, :, known:]

    def encode(self, pixels: Tensor) -> Tensor:
        """Frames [B, 3, n, H, W] in [-1, 1] to latents [B, 16, F, H / 8, W / 8] in VAE space, float32."""
        return self.vae.encode(pixels.to(self.device), on_step=lambda *_: interrupted()).float()


class CoreVae:
    """ComfyUI's own Wan 2.1 VAE, streamed with its own causal cache."""

    spec: VAESpec = WAN_2_1

    def __init__(self, vae: Any) -> None:
        from comfy.ldm.wan.vae import WanVAE as CoreWanVAE  # pyright: ignore[reportMissingImports]

        network = vae.first_stage_model
        if not isinstance(network, CoreWanVAE) or vae.latent_channels != self.spec.channels:
            raise InputError(
                f"This VAE is a {type(network).__name__} of {vae.latent_channels} latent channels; "
                f"these latents need the {self.spec.name} VAE ({self.spec.channels} channels). "
                "Connect that one (the 720p family decodes with ComfyUI's VAE Decode)."
            )
        self.vae, self.device, self.patcher = vae, vae.device, vae.patcher

    def load_for(self, batch: int, grid: LatentGrid) -> None:
        needed = self.vae.memory_used_decode((batch, self.spec.channels, 8, *grid), self.vae.vae_dtype)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)

    def decode_stream(self, pieces: Iterable[Tensor], *, tiling: Tiling | None = None) -> Iterator[Tensor]:
        from comfy.ldm.wan.vae import count_cache_layers  # pyright: ignore[reportMissingImports]

        network = self.vae.first_stage_model
        cache = [None] * count_cache_layers(network.decoder)
        for group in _groups(pieces):
            latents = network.conv2(group.to(self.device, self.vae.vae_dtype))
            frames = network.decoder(latents, feat_cache=cache, feat_idx=[0])
            yield torch.cat(frames, dim=2).float().clamp(-1, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        rows = [self.vae.encode((row.movedim(0, -1) + 1) / 2) for row in pixels]
        return torch.cat(rows).float()


def _groups(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """One latent frame, then two at a time, as ComfyUI's decoder takes them; a last one may be single."""
    singles = (single for piece in pieces for single in piece.split(1, dim=2))
    yield next(singles)
    for first in singles:
        second = next(singles, None)
        yield first if second is None else torch.cat([first, second], dim=2)


def vae_of(value: Any) -> HostedVae | CoreVae:
    """The VAE behind a socket that takes ours or ComfyUI's."""
    if isinstance(value, HostedVae):
        return value
    if isinstance(value, comfy.sd.VAE):
        return CoreVae(value)
    raise InputError(
        f"A {type(value).__name__} was connected as VAE; connect Load SANA-Video VAE or Load VAE."
    )
