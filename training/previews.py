"""Fits how a latent pixel of the demo's VAE looks, for quick previews: python training/previews.py

Prints the three weights of each channel and their bias, colours in [-1, 1], as `sana_video_core/demo_set.py` holds them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import PACKAGE  # noqa: F401  registers the checkout under its package name

# isort: split
from comfyui_sana_video.sana_video_core.checkpoint import load_vae
from comfyui_sana_video.sana_video_core.demo_set import demo_set
from comfyui_sana_video.sana_video_core.wan_vae import WanVAE, to_model_space
from comfyui_sana_video.training.drawing import draw
from comfyui_sana_video.training.scenes import random_story, track

STORIES = 24
SHAPE = 0.3  # of 2: what differs so much from most of a story is shape


@torch.no_grad()
def fitted(vae: WanVAE, stories: int = STORIES) -> Tensor:
    """Weights and, as the last row, bias [channels + 1, 3] by least squares over the pixels of drawn stories.

    Shapes, which cover few pixels, count as much as floors.
    """
    seen, shown = [], []
    for seed in range(stories):
        frames = draw(track([random_story(seed, 1)], 1), 128, 128)[:, :, 1:]  # whole groups of four
        latents = to_model_space(vae.encode(torch.cat([frames[:, :, :1], frames], dim=2)))[:, :, 1:]
        seen.append(latents[0].flatten(1).T)
        shown.append(F.avg_pool3d(frames[0], (4, 8, 8)).flatten(1).T)
    pixels, colours = F.pad(torch.cat(seen), (0, 1), value=1.0), torch.cat(shown)
    shape = torch.cat([(c - c.median(dim=0).values).abs().amax(1) > SHAPE for c in shown])
    weights = torch.where(shape, (~shape).sum() / shape.sum(), 1.0).sqrt()[:, None]
    return torch.linalg.lstsq(weights * pixels, weights * colours).solution


def main() -> None:
    for row in fitted(load_vae(demo_set().vae, dtype=torch.float32)).tolist():
        print("    (" + ", ".join(f"{weight:.4f}" for weight in row) + "),")


if __name__ == "__main__":
    main()
