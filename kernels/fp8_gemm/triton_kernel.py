"""Rounding to 8 bits in one pass over memory; the GEMM itself is PyTorch's (torch._scaled_mm)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import FP8, LARGEST, LEAST_SCALE, Fp8Rows

WARPS = 4  # of a row: eight wait longer for their sums (docs/log.md)


@triton.jit
def row_scale(largest, LARGEST: tl.constexpr, LEAST: tl.constexpr):
    """The scale of a row, from its largest magnitude."""
    return tl.maximum(largest / LARGEST, LEAST)


@triton.jit
def _fp8_rows(x_ptr, values_ptr, scales_ptr, width, between,
              TAPS: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
              LARGEST: tl.constexpr, LEAST: tl.constexpr):  # fmt: skip
    """A program makes one row of TAPS rows of x that are `between` numbers apart."""
    row = tl.program_id(0).to(tl.int64)
    tap = tl.arange(0, PADDED)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    mask = (tap < TAPS) & (columns < width)
    x = tl.load(x_ptr + row * width + tap.to(tl.int64) * between + columns, mask=mask, other=0.0)
    x = x.to(tl.float32)
    scale = row_scale(tl.max(tl.max(tl.abs(x), 1), 0), LARGEST, LEAST)
    values = (x * (1 / scale)).to(values_ptr.dtype.element_ty)
    tl.store(values_ptr + row * TAPS * width + tap * width + columns, values, mask=mask)
    tl.store(scales_ptr + row, scale)


def fp8_rows(x: Tensor) -> Fp8Rows:
    """As in reference.py."""
    x = x.contiguous()
    values, scales = _launch(x, x.numel() // x.shape[-1], 1, 0)
    return Fp8Rows(values.view(x.shape), scales.view(*x.shape[:-1], 1))


def fp8_taps(frames: Tensor) -> Fp8Rows:
    """As in reference.py."""
    frames = frames.contiguous()
    between = frames.shape[1] * frames.shape[2]
    return Fp8Rows(*_launch(frames, (len(frames) - 2) * frames.shape[1], 3, between))


def fp8_gemm(
    rows: Fp8Rows, weight: Fp8Rows, bias: Tensor | None, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """As in reference.py; the sums stay in the matrix units' registers (fast accumulation)."""
    arguments = {"scale_a": rows.scales, "scale_b": weight.scales.mT, "bias": bias, "use_fast_accum": True}
    if out is not None:
        return torch._scaled_mm(rows.values, weight.values.mT, **arguments, out_dtype=dtype, out=out)
    return torch._scaled_mm(rows.values, weight.values.mT, **arguments, out_dtype=dtype)


def _launch(x: Tensor, rows: int, taps: int, between: int) -> tuple[Tensor, Tensor]:
    width = x.shape[-1]
    values = torch.empty(rows, taps * width, device=x.device, dtype=FP8)
    scales = torch.empty(rows, 1, device=x.device, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    padded = triton.next_power_of_2(taps)
    _fp8_rows[(rows,)](
        x, values, scales, width, between,
        TAPS=taps, PADDED=padded, BLOCK=block, LARGEST=LARGEST, LEAST=LEAST_SCALE, num_warps=WARPS,
    )  # fmt: skip
    return values, scales
