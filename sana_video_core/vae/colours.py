"""Quick pictures of latents: by one matrix, which has the colours of their pixels, or drafts."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..config import VAESpec
from ..files.image_file import frame_bytes
from .statistics import to_model_space, to_vae_space
from .tiny_decoder import TinyDecoder

# pictures of 2 x 2 patches, SIDE latents a side: little work, and the truest colours of the demo's films
TRIALS, SIDE, CONTRAST, RIDGE = 32, 6, 0.6, 0.01


def latent_pictures(latents: Tensor, colours: Tensor) -> list[Image.Image]:
    """One picture per latent frame in the first row of latents [B, C, F, H, W] in model space.

    `colours` [C + 1, 3] has three weights for each channel and, as the last row, the bias, for values in
    [-1, 1]. It is one product and one copy, however many frames there are.
    """
    colours = colours.to(latents.device, torch.float32)
    pixels = latents[0].movedim(0, -1).float() @ colours[:-1] + colours[-1]
    frames = frame_bytes(pixels.movedim(-1, 0).unsqueeze(0)).cpu()
    return [Image.fromarray(frame.numpy()) for frame in frames]


def draft_picture(decoder: TinyDecoder, latents: Tensor) -> Image.Image:
    """A draft of one latent frame [B, C, 1, H, W] in model space: of the first row, as a clip's first."""
    pixels, _ = decoder.step(to_vae_space(latents[:1], decoder.spec), None)
    return Image.fromarray(frame_bytes(pixels)[0].cpu().numpy())


@torch.no_grad()
def fit_colours(encode: Callable[[Tensor], Tensor], spec: VAESpec, device: torch.device | str) -> Tensor:
    """The colours [C + 1, 3] of a VAE's latents, by least squares (with a small ridge) over random colours.

    `encode` takes frames [B, 3, n, H, W] in [-1, 1] and gives latents in VAE space.
    """
    generator = torch.Generator().manual_seed(0)
    own = 2 * torch.rand(TRIALS, 3, 1, 1, generator=generator) - 1
    patches = own + CONTRAST * (2 * torch.rand(TRIALS, 3, 2, 2, generator=generator) - 1)
    small = F.interpolate(patches.clamp(-1, 1), (SIDE, SIDE))  # as large as the latents
    frames = F.interpolate(small, scale_factor=spec.space_stride)[:, :, None].to(device)
    # without the first latent frame, which is of another kind
    latents = to_model_space(encode(frames.expand(-1, -1, 1 + spec.time_stride, -1, -1)), spec)[:, :, 1]
    x = F.pad(latents.float().cpu().movedim(1, -1).flatten(0, -2), (0, 1), value=1.0)
    y = small.movedim(1, -1).flatten(0, -2)
    ridge = RIDGE * len(x) * torch.eye(x.shape[1])
    ridge[-1, -1] = 0  # the bias is free
    return torch.linalg.solve(x.T @ x + ridge, x.T @ y)
