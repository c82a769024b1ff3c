"""One program per row: where the next GEMM is in 8 bits, the row is rounded while it is in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fp8_gemm.reference import FP8, LARGEST, LEAST_SCALE, Fp8Rows
from ..fp8_gemm.triton_kernel import row_scale

WIDE = 4096  # rows above this take more warps
WARPS, WIDE_WARPS = 4, 8
AT_ONCE = 256  # numbers a warp, 16 bytes a lane: 2,560 and 10,240 are few such tiles and waste little


@triton.jit
def _gated_product(
    x_ptr, gate_ptr, y_ptr, row_scale_ptr, width,
    SILU: tl.constexpr, ROW_SCALES: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr,
    LARGEST: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    here = row * width
    y = ()
    largest = tl.zeros((TILE,), tl.float32)
    for t in tl.static_range(TILES):
        columns = t * TILE + tl.arange(0, TILE)
        mask = columns < width
        x = tl.load(x_ptr + here + columns, mask=mask, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + here + columns, mask=mask, other=0.0).to(tl.float32)
        open = tl.sigmoid(gate)
        if SILU:
            open *= gate
        y += (x * open,)
        largest = tl.maximum(largest, tl.abs(x * open))
    factor = 1.0
    if ROW_SCALES:
        scale = row_scale(tl.max(largest, 0), LARGEST, LEAST)
        tl.store(row_scale_ptr + row, scale)
        factor = 1 / scale
    for t in tl.static_range(TILES):
        columns = t * TILE + tl.arange(0, TILE)
        tl.store(y_ptr + here + columns, (y[t] * factor).to(y_ptr.dtype.element_ty), mask=columns < width)


def silu_product(x: Tensor, gate: Tensor) -> Tensor:
    """As in reference.py, rounded once."""
    return _launch(x, gate, True, x.dtype)[0]


def sigmoid_product(x: Tensor, gate: Tensor) -> Tensor:
    """As in reference.py, rounded once."""
    return _launch(x, gate, False, x.dtype)[0]


def silu_product_fp8(x: Tensor, gate: Tensor) -> Fp8Rows:
    """As in reference.py; not rounded to x's dtype in between."""
    return Fp8Rows(*_launch(x, gate, True, FP8))


def sigmoid_product_fp8(x: Tensor, gate: Tensor) -> Fp8Rows:
    """As in reference.py; not rounded to x's dtype in between."""
    return Fp8Rows(*_launch(x, gate, False, FP8))


def _launch(x: Tensor, gate: Tensor, silu: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, gate = x.contiguous(), gate.contiguous()
    width = x.shape[-1]
    y = torch.empty(x.shape, device=x.device, dtype=dtype)
    row_scales = torch.empty(*x.shape[:-1], 1, device=x.device) if dtype == FP8 else x
    warps = WIDE_WARPS if width > WIDE else WARPS
    tile = min(warps * AT_ONCE, triton.next_power_of_2(width))
    _gated_product[(x.numel() // width,)](
        x, gate, y, row_scales, width,
        SILU=silu, ROW_SCALES=dtype == FP8, TILE=tile, TILES=triton.cdiv(width, tile),
        LARGEST=LARGEST, LEAST=LEAST_SCALE, num_warps=warps,
    )  # fmt: skip
    return y, row_scales
