"""The plain version, written to be read.

A row of K numbers is stored as 8-bit floats (e4m3: 4 bits of exponent, 3 of mantissa) and one float32, so
that its largest number becomes the largest that 8 bits hold:

    scale = max(max |x| / 448, 2^-100);   value = x / scale, rounded to e4m3
    y = (values_a values_b^T) * scale_a * scale_b^T

Source: Micikevicius et al., FP8 Formats for Deep Learning (arXiv 2209.05433); scales of rows as
torch._scaled_mm takes them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
LEAST_SCALE = 2.0**-100  # a row of zeros stays zero


class Fp8Rows(NamedTuple):
    """Rows of K numbers: values * scales."""

    values: Tensor  # [..., K], e4m3
    scales: Tensor  # [..., 1], float32


def fp8_rows(x: Tensor) -> Fp8Rows:
    """x [..., K] -> its rows in 8 bits."""
    x = x.float()
    scales = (x.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=LEAST_SCALE)
    return Fp8Rows((x / scales).to(FP8), scales)


def fp8_taps(frames: Tensor) -> Fp8Rows:
    """Latent frames and one at each end [F + 2, S, D] -> tokens beside their neighbours [F * S, 3D]."""
    taps = [frames[tap : len(frames) - 2 + tap] for tap in range(3)]
    return fp8_rows(torch.cat(taps, dim=-1).flatten(0, 1))


def fp8_gemm(
    rows: Fp8Rows, weight: Fp8Rows, bias: Tensor | None, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """rows [M, K] @ weight [N, K] transposed + bias [N] -> [M, N] in `dtype`, or written to `out`."""
    a, b = (values.float() * scales for values, scales in (rows, weight))
    result = a @ b.mT if bias is None else a @ b.mT + bias.float()
    return result.to(dtype) if out is None else out.copy_(result)
