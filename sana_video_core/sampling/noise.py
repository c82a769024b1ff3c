"""Noise as a pure function of (seed, latent frame within its scene, draw number).

A latent frame's noise doesn't depend on earlier draws, so N samplers of one chunk see the same noise as one
sampler of N chunks. The global generator stays untouched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import LatentGrid

_MASK = 2**64 - 1


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that scatters all 64 bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def frame_seed(seed: int, frame: int, draw: int) -> int:
    """The 64-bit seed of one draw of one latent frame: mix(mix(mix(seed) + frame) + draw).

    Its low 32 bits alone suffice, which are all that torch's CPU generator reads.
    """
    return _mix((_mix((_mix(seed & _MASK) + frame) & _MASK) + draw) & _MASK)


def draw_noise(
    seed: int,
    first_frame: int,
    frames: int,
    draw: int,
    *,
    batch: int,
    channels: int,
    grid: LatentGrid,
    pinned: bool = False,
) -> Tensor:
    """Standard normal noise [B, C, F, H, W], float32 on the CPU; row r of the batch uses seed + r.

    It is a view: a latent frame's numbers are drawn where they stay. A copy of each would set PyTorch's
    threads to work, which then wait awake, and take the cores from whoever encodes a film. `pinned` memory
    goes to a GPU without another copy.
    """
    noise = torch.empty(batch, frames, channels, *grid, pin_memory=pinned)
    generator = torch.Generator(device="cpu")
    for row in range(batch):
        for offset in range(frames):
            generator.manual_seed(frame_seed(seed + row, first_frame + offset, draw))
            noise[row, offset].normal_(generator=generator)
    return noise.transpose(1, 2)
