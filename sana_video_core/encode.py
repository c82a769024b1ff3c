"""Pictures to the latents that a stream or a clip begins with."""

from __future__ import annotations

import torch
from torch import Tensor

from .shapes import Compression
from .vae_tiling import Tiling
from .wan_vae import OnStep, WanVAE, to_model_space


@torch.no_grad()
def encode_beginning(
    vae: WanVAE,
    pixels: Tensor,
    compression: Compression,
    *,
    tiling: Tiling | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Frames [B, 3, n, H, W] in [-1, 1] to latents [B, C, F, H, W] in model space, float32.

    A video keeps its last 4m + 1 frames: what a stream goes on from is its end, and no frame may be left over there.
    """
    whole = compression.whole_frames(pixels.shape[2])
    return to_model_space(vae.encode(pixels[:, :, pixels.shape[2] - whole :], tiling=tiling, on_step=on_step))
