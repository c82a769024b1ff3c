"""SiLU, a depthwise 3x3 convolution and its gate, from one wide product to a hidden half as wide."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import version


def gated_depthwise(
    u: Tensor, bias_up: Tensor, weight: Tensor, bias: Tensor, rows: int, columns: int
) -> Tensor:
    return version(__name__, u).gated_depthwise(u, bias_up, weight, bias, rows, columns)


__all__ = ["gated_depthwise"]
