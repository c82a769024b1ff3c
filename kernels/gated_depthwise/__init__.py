"""SiLU, a depthwise 3x3 convolution and its gate: from a wide GEMM's result to a hidden half as wide."""

from ..dispatch import by_device
from . import reference

gated_depthwise = by_device(reference.gated_depthwise)

__all__ = ["gated_depthwise"]
