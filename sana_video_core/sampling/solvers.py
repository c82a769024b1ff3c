"""Update rules: from noise to clean latents, given a velocity. They know no model, text or stream.

x is float32 whatever the model computes in. v = noise - clean, hence clean = x - sigma * v. A velocity is
called as velocity(x, sigma) and may raise; cancellation, progress and checks happen in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from ..config import STREAM_RULES
from .schedule import few_step_levels

Velocity = Callable[[Tensor, float], Tensor]


def sample_few_step(
    velocity: Velocity,
    draw: Callable[[int], Tensor],
    sigmas: Sequence[float],
    rule: str = STREAM_RULES[0],
) -> Tensor:
    """Predict the clean latents, add fresh noise of the next level, repeat; for distilled models.

    `draw(n)` returns noise number n. `rule` is one of STREAM_RULES (`few_step_levels`). Source:
    longlive_flow_euler_sampler.py of the original; the loop is that of Self-Forcing (arXiv 2506.08009).
    """
    x = clean = draw(0)
    for number, level in enumerate(few_step_levels(sigmas, rule)):
        if number:
            x = level.noise * draw(number) + (1 - level.noise) * clean
        clean = x - level.estimate * velocity(x, level.network)
    return clean


def sample_euler(velocity: Velocity, noise: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Deterministic Euler steps along the flow."""
    x = noise
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * velocity(x, sigma)
    return x


def sample_dpm(velocity: Velocity, noise: Tensor, sigmas: Sequence[float]) -> Tensor:
    """DPM-Solver++ 2M (arXiv 2211.01095) on a flow grid that ends at 0; first and last step are first order.

    With lambda = log((1 - sigma) / sigma). The clean estimate is x - sigma * v: the original's detour over
    the noise loses four digits at the first step.
    """
    x = noise
    before: tuple[Tensor, float] | None = None  # the previous clean estimate and its lambda
    for sigma, following in pairwise(sigmas):
        clean = x - sigma * velocity(x, sigma)
        if following == 0:
            return clean
        lam, lam_next = (math.log((1 - s) / s) for s in (sigma, following))
        h = lam_next - lam
        target = clean
        if before is not None:
            earlier, lam_earlier = before
            target = clean + (clean - earlier) * (h / (2 * (lam - lam_earlier)))
        x = (following / sigma) * x + (1 - following) * (1 - math.exp(-h)) * target
        before = clean, lam
    return x
