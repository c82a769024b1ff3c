"""Noise levels, from noisy to clean. sigma is in [0, 1], a timestep in [0, 1000].

Every grid ends at sigma 0. `shift` warps u to s*u / (1 + (s - 1)*u), which spends more steps on high noise.
"""

from __future__ import annotations

import math

from ..errors import InputError

TRAINING_STEPS = 1000


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


def few_step_sigmas(steps: int, shift: float = 8.0) -> tuple[float, ...]:
    """The grid of the distilled block-causal models: timesteps rounded to integers, sigma = timestep / 1000.

    4 steps at shift 8: 1000, 960, 889, 727 (denoising_step_list of configs/sana_video_config/longsana).
    """
    _check(steps, shift)
    return (*(round(1000 * warp(1 - i / steps, shift)) / 1000 for i in range(steps)), 0.0)


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
