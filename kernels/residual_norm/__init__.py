"""A gated residual, and the modulated LayerNorm behind it."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import version


def residual_norm(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return version(__name__, x).residual_norm(x, branch, gate, shift, scale, eps)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor | None, extra: Tensor | None = None) -> Tensor:
    return version(__name__, x).gated_residual(x, branch, gate, extra)


__all__ = ["gated_residual", "residual_norm"]
