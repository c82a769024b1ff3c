"""Fits how a latent pixel of the demo's VAE looks, for quick previews: python training/previews.py

Prints the three weights of each channel and their bias, colours in [-1, 1], as `bridge/previews.py` holds them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import PACKAGE  # noqa: F401  registers the checkout under its package name

# isort: split
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import load_vae
from comfyui_sana_video.sana_video_core.vae.wan_vae import WanVAE, to_model_space
from comfyui_sana_video.training.drawing import draw
from comfyui_sana_video.training.scenes import random_story, track

STORIES = 24
SHAPE = 0.3  # of 2: what differs so much from most of a story is shape


@torch.no_grad()
def seen(vae: WanVAE, seeds: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Latent pixels of drawn stories [N, channels + 1], the last one 1, and their colours [N, 3] in [-1, 1]."""
    latents, colours = [], []
    for seed in seeds:
        frames = draw(track([random_story(seed, 1)], 1), 128, 128)[:, :, 1:]  # whole groups of four
        z = to_model_space(vae.encode(torch.cat([frames[:, :, :1], frames], dim=2)))[:, :, 1:]
        latents.append(F.pad(z[0].flatten(1).T, (0, 1), value=1.0))
        colours.append(F.avg_pool3d(frames[0], (4, 8, 8)).flatten(1).T)
    return torch.cat(latents), torch.cat(colours)


def fitted(latents: Tensor, colours: Tensor, shape: Tensor) -> Tensor:
    """Weights and, as the last row, bias [channels + 1, 3] by least squares; pixels of a shape [N] weigh as much as the others."""
    weights = torch.where(shape, (~shape).sum() / shape.sum(), 1.0).sqrt()[:, None]
    return torch.linalg.lstsq(weights * latents, weights * colours).solution


def of_a_shape(colours: Tensor, stories: int) -> Tensor:
    """Which of the pixels [N] of so many stories differ from most of their story."""
    parts = colours.chunk(stories)
    return torch.cat([(part - part.median(dim=0).values).abs().amax(1) > SHAPE for part in parts])


def main() -> None:
    latents, colours = seen(load_vae(demo_set().vae, dtype=torch.float32), range(STORIES))
    for row in fitted(latents, colours, of_a_shape(colours, STORIES)).tolist():
        print("    (" + ", ".join(f"{weight:.4f}" for weight in row) + "),")


if __name__ == "__main__":
    main()
