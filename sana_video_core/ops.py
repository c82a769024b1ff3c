"""The one door to the kernels: the core imports operations from here and nowhere else."""

from ..kernels.dispatch import BACKENDS, PRECISIONS, Choice, choose
from ..kernels.fp8_product import Fp8Rows, fp8_product, fp8_rows, fp8_taps
from ..kernels.gated_depthwise import gated_depthwise
from ..kernels.linear_attention import KeyValueSum, linear_attention, linear_self_attention, rotate
from ..kernels.residual_norm import gated_residual, gated_residual_fp8, residual_norm, residual_norm_fp8

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Choice",
    "Fp8Rows",
    "KeyValueSum",
    "choose",
    "fp8_product",
    "fp8_rows",
    "fp8_taps",
    "gated_depthwise",
    "gated_residual",
    "gated_residual_fp8",
    "linear_attention",
    "linear_self_attention",
    "residual_norm",
    "residual_norm_fp8",
    "rotate",
]
