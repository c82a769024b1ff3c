"""A program walks along a few rows of an image, column by column.

A value is read and activated once for nine sums. Only the rows above and below are activated again by the
neighbours (7 for 5), and nothing of width 2M is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# of one program; two columns a round keep more loads in flight (README.md: what was tried)
CHANNELS, ROWS, WARPS, UNROLL = 64, 5, 1, 2


@triton.jit
def _silu(h, FAST: tl.constexpr):
    """silu of 2h, which is h + h * tanh(h): one special-function operation where the chip has tanh."""
    if FAST:
        t = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [h], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        t = 2 / (1 + tl.exp(-2 * h)) - 1
    return h + h * t


@triton.jit
def _each(x, ROWS: tl.constexpr):
    """x for each of the rows: their sums begin with it."""
    sums = ()
    for _ in tl.static_range(ROWS):
        sums += (x,)
    return sums


@triton.jit
def _weights(w_ptr, channels, mask, scale: tl.constexpr):
    """The nine weights of each channel, row by row, float32."""
    w = ()
    for tap in tl.static_range(9):
        w += (scale * tl.load(w_ptr + channels * 9 + tap, mask=mask, other=0.0).to(tl.float32),)
    return w


@triton.jit
def _column(u_ptr, x, top, rows, columns, width, channels, mask, ROWS: tl.constexpr):
    """Column x of the image from one row above `top` to one below the last.

    Outside of the image it holds a very negative number, whose silu is exactly zero.
    """
    inside = mask & (channels * 0 + x < columns)
    values = ()
    for r in tl.static_range(ROWS + 2):
        y = top + r - 1
        there = inside & (channels * 0 + y >= 0) & (channels * 0 + y < rows)
        values += (tl.load(u_ptr + (y * columns + x) * width + channels, mask=there, other=-30000.0),)
    return values


@triton.jit
def _spread(column, half_bias, w, bias, left, middle, ROWS: tl.constexpr, FAST: tl.constexpr):
    """Add a column to the sums of its left neighbour (now whole) and its own; begin its right neighbour's."""
    a = ()
    for r in tl.static_range(ROWS + 2):
        a += (_silu(0.5 * column[r].to(tl.float32) + half_bias, FAST),)
    whole, partial, right = (), (), ()
    # sums are chains of multiply-adds, so that no instruction only adds
    for r in tl.static_range(ROWS):
        whole += (left[r] + a[r] * w[2] + a[r + 1] * w[5] + a[r + 2] * w[8],)
        partial += (middle[r] + a[r] * w[1] + a[r + 1] * w[4] + a[r + 2] * w[7],)
        right += (bias + a[r] * w[0] + a[r + 1] * w[3] + a[r + 2] * w[6],)
    return whole, partial, right


@triton.jit
def _gated_depthwise(
    u_ptr, bias_up_ptr, w_ptr, bias_ptr, y_ptr, rows, columns, hidden,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, FAST: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    signal = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    mask = signal < hidden
    gate, width = signal + hidden, 2 * hidden
    top = tl.program_id(1) * ROWS
    image = tl.program_id(2).to(tl.int64)
    u_ptr += image * rows * columns * width  # within an image 32 bits are enough
    y_ptr += image * rows * columns * hidden
    up_signal = 0.5 * tl.load(bias_up_ptr + signal, mask=mask, other=0.0).to(tl.float32)
    up_gate = 0.5 * tl.load(bias_up_ptr + gate, mask=mask, other=0.0).to(tl.float32)
    b_signal = tl.load(bias_ptr + signal, mask=mask, other=0.0).to(tl.float32)
    b_gate = 0.5 * tl.load(bias_ptr + gate, mask=mask, other=0.0).to(tl.float32)
    # the gate's sums are halved by their weights, as _silu takes them
    w_signal, w_gate = _weights(w_ptr, signal, mask, 1.0), _weights(w_ptr, gate, mask, 0.5)
    s_left, s_middle = _each(b_signal, ROWS), _each(b_signal, ROWS)
    g_left, g_middle = _each(b_gate, ROWS), _each(b_gate, ROWS)
    s_column = _column(u_ptr, 0, top, rows, columns, width, signal, mask, ROWS)
    g_column = _column(u_ptr + hidden, 0, top, rows, columns, width, signal, mask, ROWS)
    for x in tl.range(columns + 1, loop_unroll_factor=UNROLL):
        # loads while this one is summed
        s_next = _column(u_ptr, x + 1, top, rows, columns, width, signal, mask, ROWS)
        g_next = _column(u_ptr + hidden, x + 1, top, rows, columns, width, signal, mask, ROWS)
        s_whole, s_left, s_middle = _spread(
            s_column, up_signal, w_signal, b_signal, s_left, s_middle, ROWS, FAST
        )
        g_whole, g_left, g_middle = _spread(g_column, up_gate, w_gate, b_gate, g_left, g_middle, ROWS, FAST)
        for r in tl.static_range(ROWS):
            out = s_whole[r] * _silu(g_whole[r], FAST)
            there = mask & (signal * 0 + x > 0) & (signal * 0 + top + r < rows)
            place = ((top + r) * columns + x - 1) * hidden + signal
            tl.store(y_ptr + place, out.to(y_ptr.dtype.element_ty), mask=there)
        s_column, g_column = s_next, g_next


def gated_depthwise(
    u: Tensor, bias_up: Tensor, weight: Tensor, bias: Tensor, rows: int, columns: int
) -> Tensor:
    """As in reference.py; all sums in float32."""
    u, bias_up, weight, bias = (part.contiguous() for part in (u, bias_up, weight, bias))
    images, hidden = u.shape[0], u.shape[2] // 2
    y = u.new_empty(images, rows * columns, hidden)
    grid = (triton.cdiv(hidden, CHANNELS), triton.cdiv(rows, ROWS), images)
    fast = u.is_cuda and u.dtype != torch.float32 and torch.version.cuda is not None
    _gated_depthwise[grid](
        u, bias_up, weight, bias, y, rows, columns, hidden,
        CHANNELS=CHANNELS, ROWS=ROWS, FAST=fast, UNROLL=UNROLL, num_warps=WARPS,
    )  # fmt: skip
    return y
