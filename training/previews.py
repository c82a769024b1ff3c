"""Fits the colours of the demo VAE's latent pixels, for quick previews.

    python -m comfyui_sana_video.training.previews

Prints three weights for each channel, and the bias, for colours in [-1, 1], as `bridge/previews.py` has them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..demo.model_set import demo_set
from ..sana_video_core.config import WAN_2_1
from ..sana_video_core.vae.statistics import to_model_space
from ..sana_video_core.vae.wan_vae import WanVAE
from .drawing import draw
from .scenes import random_story, track
from .vae import load_wan

STORIES = 24
SHAPE = 0.3  # of 2: pixels that differ this much from most of their story belong to the shape


@torch.no_grad()
def seen(vae: WanVAE, seeds: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Latent pixels of drawn stories [N, channels + 1], with a last column of 1; their colours [N, 3]."""
    latents, colours = [], []
    for seed in seeds:
        frames = draw(track([random_story(seed, 1)], 1), 128, 128)[:, :, 1:]  # whole groups of four
        z = to_model_space(vae.encode(torch.cat([frames[:, :, :1], frames], dim=2)), WAN_2_1)[:, :, 1:]
        latents.append(F.pad(z[0].flatten(1).T, (0, 1), value=1.0))
        colours.append(F.avg_pool3d(frames[0], (4, 8, 8)).flatten(1).T)
    return torch.cat(latents), torch.cat(colours)


def fitted(latents: Tensor, colours: Tensor, shape: Tensor) -> Tensor:
    """Least-squares weights and, as the last row, bias [channels + 1, 3].

    The pixels of a shape (`shape` [N]) have the same total weight as the others.
    """
    weights = torch.where(shape, (~shape).sum() / shape.sum(), 1.0).sqrt()[:, None]
    return torch.linalg.lstsq(weights * latents, weights * colours).solution


def of_a_shape(colours: Tensor, stories: int) -> Tensor:
    """Which pixels [N] of the stories differ from most of their story."""
    parts = colours.chunk(stories)
    return torch.cat([(part - part.median(dim=0).values).abs().amax(1) > SHAPE for part in parts])


def main() -> None:
    latents, colours = seen(load_wan(demo_set().vae, dtype=torch.float32), range(STORIES))
    for row in fitted(latents, colours, of_a_shape(colours, STORIES)).tolist():
        print("    (" + ", ".join(f"{weight:.4f}" for weight in row) + "),")


if __name__ == "__main__":
    main()
