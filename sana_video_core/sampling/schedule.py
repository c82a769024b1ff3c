"""Noise levels, from noisy to clean. sigma is in [0, 1], a timestep in [0, 1000].

Every grid ends at sigma 0. `shift` warps u to s*u / (1 + (s - 1)*u), which spends more steps on high noise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from ..config import STREAM_RULES
from ..errors import InputError

TRAINING_STEPS = 1000
TABLE_SHIFT = 7.0  # of the sigmas of the original's inference script, inference_flow_shift in its config


class Level(NamedTuple):
    """A noise level of a few-step sampler, as each of its three uses sees it; all in [0, 1]."""

    network: float  # timestep / 1000 that the network reads
    estimate: float  # sigma that turns its velocity into clean latents
    noise: float  # sigma of the noise in the latents that it reads


def warp(u: float, shift: float) -> float:
    """The flow shift."""
    return shift * u / (1 + (shift - 1) * u)


def _spaced(first: float, last: float, count: int) -> list[float]:
    """`count` evenly spaced values, both ends included (a single value is the first)."""
    gaps = max(1, count - 1)
    return [first + (last - first) * i / gaps for i in range(count)]


def _check(steps: int, shift: float) -> None:
    if not 1 <= steps <= TRAINING_STEPS:
        raise InputError(f"{steps} steps were asked for; choose 1 to {TRAINING_STEPS}.")
    if not 0 < shift < math.inf:
        raise InputError(f"The shift is {shift}; it has to be above 0 (the models were published with 8).")


def few_step_sigmas(steps: int, shift: float = 8.0, rule: str = STREAM_RULES[0]) -> tuple[float, ...]:
    """The grid of the distilled block-causal models: timesteps rounded to integers, sigma = timestep / 1000.

    4 steps at shift 8: 1000, 960, 889, 727 (denoising_step_list of configs/sana_video_config/longsana).
    Raises InputError for more steps than have levels of their own under `rule`.
    """
    _check(steps, shift)
    sigmas = _rounded(steps, shift)
    if not _falls(sigmas, rule):
        most = next(few for few in range(1, steps) if not _falls(_rounded(few + 1, shift), rule))
        raise InputError(
            f"{steps} steps were asked for, but the timesteps are whole numbers, and some would be equal: "
            f"choose 1 to {most} (at shift {shift:g}). LongSANA was distilled to 4."
        )
    return sigmas


def _rounded(steps: int, shift: float) -> tuple[float, ...]:
    return (*(round(1000 * warp(1 - i / steps, shift)) / 1000 for i in range(steps)), 0.0)


def _falls(sigmas: Sequence[float], rule: str) -> bool:
    """Whether each use of each level is below the one before, and above 0."""
    levels = (*few_step_levels(sigmas, rule), Level(0, 0, 0))
    return all(a > b for pair in pairwise(levels) for a, b in zip(*pair, strict=True))


def few_step_levels(sigmas: Sequence[float], rule: str = STREAM_RULES[0]) -> tuple[Level, ...]:
    """The levels of `few_step_sigmas`, without the 0 at its end.

    `training`: a sigma for all uses. `original`: the network reads the timestep in bfloat16 (888 and 728 for
    889 and 727), whose sigma in a table of shift 7 makes the estimate; noise takes that of the exact timestep
    (longlive_flow_euler_sampler.py).
    """
    if rule == STREAM_RULES[0]:
        return tuple(Level(sigma, sigma, sigma) for sigma in sigmas[:-1])
    timesteps = [round(1000 * sigma) for sigma in sigmas[:-1]]
    read = torch.tensor(timesteps, dtype=torch.bfloat16).tolist()
    return tuple(Level(r / 1000, _in_table(r), _in_table(t)) for r, t in zip(read, timesteps, strict=True))


@functools.cache
def _in_table(timestep: float) -> float:
    """The sigma of the table of shift 7 whose timestep is nearest."""
    table = (warp(1 - i / TRAINING_STEPS, TABLE_SHIFT) for i in range(TRAINING_STEPS))
    return min(table, key=lambda sigma: abs(1000 * sigma - timestep))


def euler_sigmas(steps: int, shift: float = 8.0) -> tuple[float, ...]:
    """The grid of diffusers' FlowMatchEulerDiscreteScheduler(shift=…): its low end is warped twice.

    4 steps at shift 8: timesteps 1000, 941.83, 803.77, 60.21.
    """
    _check(steps, shift)
    lowest = warp(1 / TRAINING_STEPS, shift)
    return (*(warp(u, shift) for u in _spaced(1.0, lowest, steps)), 0.0)


def dpm_sigmas(steps: int, shift: float = 8.0) -> tuple[float, ...]:
    """The flow grid of DPM-Solver++: evenly spaced from 0.999 down, warped once.

    50 steps at shift 8: timesteps 999, 997, 994, … 337, 249, 140 once truncated.
    """
    _check(steps, shift)
    return tuple(warp(1 - u, shift) for u in _spaced(1 / TRAINING_STEPS, 1.0, steps + 1))


def clip_sigmas(steps: int, shift: float, denoise: float, grid: str) -> tuple[float, ...]:
    """The sigmas of `steps` steps; with `denoise` below 1, the end of a proportionally longer grid."""
    if not 0 < denoise <= 1:
        raise InputError(
            f"denoise is {denoise}; it has to be above 0 and at most 1 (1 starts from pure noise)."
        )
    whole = max(steps, round(steps / denoise))
    return (dpm_sigmas if grid == "dpm++" else euler_sigmas)(whole, shift)[-(steps + 1) :]
