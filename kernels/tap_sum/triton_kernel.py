"""A program adds 27 products for a few pixels of one channel; neighbours read neighbours."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .reference import HISTORY

PIXELS, WARPS = 512, 4  # of a program


@triton.jit(do_not_specialize=["steps", "rows", "columns", "plane"])
def _sum_of_taps(
    planes_ptr, bias_ptr, out_ptr, steps, rows, columns, plane, CHANNELS: tl.constexpr, PIXELS: tl.constexpr
):
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    clip, step = tl.program_id(1) // steps, tl.program_id(1) % steps
    channel = tl.program_id(2)
    area = rows * columns
    row, column = pixels // columns, pixels % columns
    there = pixels < area
    picture = (clip * (steps + 2) + step).to(tl.int64) * area
    total = tl.zeros([PIXELS], dtype=tl.float32) + tl.load(bias_ptr + channel).to(tl.float32)
    for tap in tl.static_range(27):
        time, down, right = tap // 9, tap // 3 % 3 - 1, tap % 3 - 1
        inside = there & (row + down >= 0) & (row + down < rows)
        inside &= (column + right >= 0) & (column + right < columns)
        start = planes_ptr + (tap * CHANNELS + channel).to(tl.int64) * plane + picture + time * area
        total += tl.load(start + pixels + down * columns + right, mask=inside, other=0.0).to(tl.float32)
    target = out_ptr + ((clip * CHANNELS + channel) * steps + step).to(tl.int64) * area
    tl.store(target + pixels, total.to(out_ptr.dtype.element_ty), mask=there)


def sum_of_taps(planes: Tensor, bias: Tensor) -> Tensor:
    """As in reference.py; added in float32."""
    channels, batch, seen, rows, columns = planes.shape[3:]
    steps = seen - HISTORY
    out = planes.new_empty(batch, channels, steps, rows, columns)
    _sum_of_taps[(triton.cdiv(rows * columns, PIXELS), batch * steps, channels)](
        planes.contiguous(), bias.contiguous(), out, steps, rows, columns, batch * seen * rows * columns,
        CHANNELS=channels, PIXELS=PIXELS, num_warps=WARPS,
    )  # fmt: skip
    return out
