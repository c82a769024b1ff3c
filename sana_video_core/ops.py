"""The one door to the kernels: the core imports operations from here and nowhere else."""

from ..kernels.dispatch import BACKENDS, Choice, choose
from ..kernels.gated_depthwise import gated_depthwise
from ..kernels.linear_attention import KeyValueSum, linear_attention, linear_self_attention, rotate
from ..kernels.residual_norm import gated_residual, residual_norm

__all__ = [
    "BACKENDS",
    "Choice",
    "KeyValueSum",
    "choose",
    "gated_depthwise",
    "gated_residual",
    "linear_attention",
    "linear_self_attention",
    "residual_norm",
    "rotate",
]
