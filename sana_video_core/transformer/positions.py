"""Rotary positions and timesteps, the two places where float32 arithmetic isn't enough.

F latent frames, H W token rows and columns, d head size. Source: WanRotaryPosEmbed / timestep embedding in
diffusion/model/nets of the original (complex128 there; float64 tables here).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..arriving import sent
from ..shapes import LatentGrid

THETA = 10000.0
TIMESTEP_DIMENSIONS = 256


def truncate_timestep(timesteps: Tensor) -> Tensor:
    """The timestep truncated to an integer, as in training; float32.

    The original casts to int64. A float32 sigma times 1000 falls just below 251, 253, 502, 506 and 511, where
    a plain cast would be one too low. The offset 0.0001 repairs these and leaves true fractions (866.9993)
    alone.
    """
    return torch.floor(timesteps.to(torch.float64) + 0.0001).to(torch.float32)


def timestep_features(timesteps: Tensor) -> Tensor:
    """Sinusoids [..., 256] of truncated timesteps [...], cosines first, period up to 10000; float32."""
    half = TIMESTEP_DIMENSIONS // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = truncate_timestep(timesteps)[..., None] * torch.exp(-math.log(THETA) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _axis_angles(first: int, count: int, dimensions: int) -> Tensor:
    """Angles [count, dimensions / 2] of positions first, first + 1, …; float64."""
    place = {"dtype": torch.float64, "device": "cpu"}  # not the default device
    frequencies = THETA ** (-torch.arange(0, dimensions, 2, **place) / dimensions)
    return torch.arange(first, first + count, **place)[:, None] * frequencies


def rotary_table(
    frames: int, grid: LatentGrid, split: tuple[int, int, int], first_frame: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [N, d / 2] for N = F*H*W tokens, time then row then column; float32.

    Time starts at `first_frame`, absolute in its scene; rows and columns start at 0. The angles are float64,
    on the CPU because not every device has it: at position 1000 a float32 angle is off by 6e-5.
    """
    lengths = (frames, *grid)
    offsets = (first_frame, 0, 0)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for axis, dimensions in enumerate(split):
        angles = _axis_angles(offsets[axis], lengths[axis], dimensions)
        shape = [1, 1, 1, dimensions // 2]
        shape[axis] = lengths[axis]
        for part, table in zip(parts, (angles.cos(), angles.sin()), strict=True):
            small = sent(table.to(torch.float32), device).view(shape)
            part.append(small.expand(*lengths, dimensions // 2))
    cosines, sines = (torch.cat(part, dim=-1).flatten(0, 2) for part in parts)
    return cosines, sines
