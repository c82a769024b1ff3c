"""Linear attention with a carried sum: numerator from rotated features, denominator from unrotated ones."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import version
from .reference import KeyValueSum, linear_attention


def linear_self_attention(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: tuple[Tensor, Tensor],
    past: KeyValueSum | None,
    heads: int,
    norm_eps: float,
    eps: float,
) -> tuple[Tensor, KeyValueSum]:
    run = version(__name__, qkv).linear_self_attention
    return run(qkv, q_weight, k_weight, rotary, past, heads, norm_eps, eps)


__all__ = ["KeyValueSum", "linear_attention", "linear_self_attention"]
