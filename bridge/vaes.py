"""ComfyUI's VAE: made of a file of any of our families', and run as a stream. Imported when one is used."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ..sana_video_core.checkpoints.draft import read_vae_or_draft
from ..sana_video_core.config import LTX_2, Family
from ..sana_video_core.errors import FileError, InputError
from ..sana_video_core.shapes import LatentGrid
from ..sana_video_core.vae.ltx_config import LtxConfig
from ..sana_video_core.vae.tiling import Tiling
from ..sana_video_core.vae.vae_config import VAEConfig
from .drafts import HostedTinyDecoder, is_tiny, read_as
from .progress import interrupted
from .vae_networks import HostedLtx, HostedWan, described, hosted_network

IN_TILES = "The GPU's memory is too small for whole pictures: %s in tiles, a little less exact."

logger = logging.getLogger("sana_video")


def load_vae(path: Path) -> comfy.sd.VAE:
    """ComfyUI's VAE of a file of any of our families, or a tiny decoder's. It chooses dtype and devices."""
    tensors, draft, config = read_vae_or_draft(path)
    said = None
    if config is not None:
        _check_sizes(path, config)
        if isinstance(config, LtxConfig):
            said = {"config": json.dumps({"vae": described(config)})}
    vae = comfy.sd.VAE(sd=tensors, metadata=said)
    if draft is not None:
        read_as(vae, draft)
    vae.patcher.cached_patcher_init = (_load_patcher, (path,))
    return vae


def _check_sizes(path: Path, config: VAEConfig | LtxConfig) -> None:
    """Refuse sizes that ComfyUI doesn't read from a file, or of the metadata that it takes instead."""
    if isinstance(config, LtxConfig):
        known = config.latent_channels == config.spec.channels
    else:
        known = config == VAEConfig(config.base_width)
    if not known:
        raise FileError(
            f"“{path.name}” is a {config.spec.name} VAE of other sizes than the published one's ({config}); "
            f"ComfyUI can't build it. Use {config.spec.files}."
        )


def _load_patcher(path: Path, disable_dynamic: bool = False) -> Any:
    """Another copy of the weights, for Select VAE Device; with the signature of ComfyUI's own."""
    return load_vae(path).patcher


def file_of(vae: comfy.sd.VAE) -> Path | None:
    """The file that a VAE was loaded from, by our loader or ComfyUI's; None if nothing says so."""
    load, *rest = getattr(vae.patcher, "cached_patcher_init", None) or (None,)
    known = (_load_patcher, getattr(comfy.sd, "load_vae_patcher", _load_patcher))
    return Path(rest[0][0]) if load in known else None


class HostedDecoder:
    """A VAE of ComfyUI's for SANA-Video's latents, whoever loaded it, decoded by our network."""

    def __init__(self, vae: comfy.sd.VAE, network: HostedWan | HostedLtx | HostedTinyDecoder) -> None:
        self.network, self.spec = network, network.spec
        self.patcher, self.device = vae.patcher, vae.device
        # of 256 or 512 pixels: LTX looks further around
        self.tiles = Tiling() if self.spec.space_stride < LTX_2.space_stride else Tiling(16, 4)
        self.in_tiles = False  # since memory ran out

    def load_for(self, batch: int, grid: LatentGrid) -> None:
        """Load the weights, with room for one step of this size."""
        needed = self.network.memory_for(batch, grid, self.device)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)

    def decode_stream(self, pieces: Iterable[Tensor], *, tiling: Tiling | None = None) -> Iterator[Tensor]:
        """As `WanVAE.decode_stream`, but continues in tiles when memory runs out.

        The tiled decoding starts over and skips what was yielded, so `pieces` has to be iterable again.
        """
        made, frames = 0, self.network.decode_stream(pieces, tiling=tiling)
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
        self.in_tiles = True
        logger.warning(IN_TILES, "decoding continues")
        for pixels in self.network.decode_stream(pieces, tiling=self.tiles):
            known = min(made, pixels.shape[2])
            made -= known
            if known < pixels.shape[2]:
                yield pixels[:, :, known:]


class HostedDraft(HostedDecoder):
    """A tiny decoder. It can't encode."""

    def __init__(self, vae: comfy.sd.VAE) -> None:
        network = HostedTinyDecoder(vae)
        super().__init__(vae, network)
        logger.info("A draft: %s decodes in the place of the %s VAE.", network.kind, self.spec.name)


class HostedVae(HostedDecoder):
    """A whole VAE."""

    def __init__(self, vae: comfy.sd.VAE) -> None:
        self.network: HostedWan | HostedLtx
        super().__init__(vae, hosted_network(vae))
        choice = self.network.kernel_choice(self.device)  # raises before the weights are loaded
        if not choice.triton:
            logger.info("The VAE runs in plain PyTorch: %s.", choice.reason)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Frames [B, 3, n, H, W] in [-1, 1] to latents [B, C, F, H, W] in VAE space, float32.

        In tiles when memory runs out.
        """
        encode = partial(self.network.encode, pixels.to(self.device), on_step=lambda *_: interrupted())
        try:
            return encode().float()
        except torch.OutOfMemoryError:
            pass  # leave the handler first: the error keeps tensors alive
        comfy.model_management.soft_empty_cache()
        logger.warning(IN_TILES, "encoding")
        return encode(tiling=self.tiles).float()


def encoder_of(value: Any) -> HostedVae:
    """`vae_of`, for nodes that encode. Raises InputError for a draft decoder, before anything is loaded."""
    vae = vae_of(value)
    if isinstance(vae, HostedVae):
        return vae
    raise InputError(
        f"The connected VAE is the draft decoder {vae.network.kind}, which can't encode pictures. Connect "
        f"the whole {vae.spec.name} VAE here; the draft can stay at Decode and Decode Stream."
    )


def check_vae(vae: HostedDecoder, family: Family) -> None:
    """Raises InputError, before anything is loaded, unless a family's latents are of this VAE."""
    if vae.spec != family.vae:
        raise InputError(
            f"The {vae.spec.name} VAE is connected, but {family.title} has latents of the {family.vae.name} "
            f"VAE. Load {family.vae.files} with Load SANA-Video VAE."
        )


def vae_of(value: Any) -> HostedVae | HostedDraft:
    """What our nodes do with the value of a VAE socket."""
    if not isinstance(value, comfy.sd.VAE):
        raise InputError(
            f"A {type(value).__name__} was connected as VAE; connect Load SANA-Video VAE or Load VAE."
        )
    if value.first_stage_model is None:
        raise InputError(
            "This VAE is empty: the checkpoint that it was loaded from has none. "
            "Connect Load SANA-Video VAE or Load VAE."
        )
    return HostedDraft(value) if is_tiny(value) else HostedVae(value)
