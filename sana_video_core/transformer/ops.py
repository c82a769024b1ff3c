"""The kernels' operations. The core imports them only from here."""

from ...kernels.dispatch import Choice, choose, choose_gated
from ...kernels.fp8_gemm import Fp8Rows, fp8_gemm, fp8_rows, fp8_taps
from ...kernels.gated_attention import gated_heads, key_value_product, rotated_rows
from ...kernels.gated_depthwise import gated_depthwise
from ...kernels.gated_product import sigmoid_product, sigmoid_product_fp8, silu_product, silu_product_fp8
from ...kernels.linear_attention import (
    KeyValueSum,
    folded_weight,
    key_value_sum,
    linear_attention,
    query_rows,
    read_rows,
    rotate,
)
from ...kernels.residual_mix import Mixed, Source, residual_mix, residual_mix_fp8
from ...kernels.residual_norm import gated_residual, gated_residual_fp8, residual_norm, residual_norm_fp8
from ...kernels.temporal_taps import temporal_taps

__all__ = [
    "Choice",
    "Fp8Rows",
    "KeyValueSum",
    "Mixed",
    "Source",
    "choose",
    "choose_gated",
    "folded_weight",
    "fp8_gemm",
    "fp8_rows",
    "fp8_taps",
    "gated_depthwise",
    "gated_heads",
    "gated_residual",
    "gated_residual_fp8",
    "key_value_product",
    "key_value_sum",
    "linear_attention",
    "query_rows",
    "read_rows",
    "residual_mix",
    "residual_mix_fp8",
    "residual_norm",
    "residual_norm_fp8",
    "rotate",
    "rotated_rows",
    "sigmoid_product",
    "sigmoid_product_fp8",
    "silu_product",
    "silu_product_fp8",
    "temporal_taps",
]
