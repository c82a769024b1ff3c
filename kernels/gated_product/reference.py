"""The plain version, written to be read.

    y = x * silu(g)          the hidden rows of a SwiGLU
    y = x * sigmoid(g)       an attention's output

Source: SwiGLU and output_gate in diffusion/model/nets of the original (SANA-Video 2.0).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..fp8_gemm.reference import Fp8Rows, fp8_rows


def silu_product(x: Tensor, gate: Tensor) -> Tensor:
    """x and gate [..., D] -> [..., D]."""
    return x * F.silu(gate)


def sigmoid_product(x: Tensor, gate: Tensor) -> Tensor:
    """x and gate [..., D] -> [..., D]."""
    return x * gate.sigmoid()


def silu_product_fp8(x: Tensor, gate: Tensor) -> Fp8Rows:
    """silu_product in 8 bits."""
    return fp8_rows(silu_product(x, gate))


def sigmoid_product_fp8(x: Tensor, gate: Tensor) -> Fp8Rows:
    """sigmoid_product in 8 bits."""
    return fp8_rows(sigmoid_product(x, gate))
