"""A program walks down a strip of an image: each row is read once with its two neighbours, and feeds three rows of sums.

So a value is activated three times (once for each horizontal shift) instead of nine, and nothing of width 2M is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


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
def _weights(w_ptr, channels, mask):
    """The nine weights of each channel, [1, channels] each, float32."""
    w = ()
    for tap in tl.static_range(9):
        w += (tl.load(w_ptr + channels * 9 + tap, mask=mask, other=0.0).to(tl.float32)[None, :],)
    return w


@triton.jit
def _row(u_ptr, place, y, rows, width, left, middle, right):
    """A row of the image as its pixels' left neighbours, themselves and their right neighbours.

    Outside of the image a very negative number is read: its silu is exactly zero.
    """
    there = (place * 0 + y >= 0) & (place * 0 + y < rows)
    a = tl.load(u_ptr + (place - width), mask=left & there, other=-30000.0)
    b = tl.load(u_ptr + place, mask=middle & there, other=-30000.0)
    c = tl.load(u_ptr + (place + width), mask=right & there, other=-30000.0)
    return a, b, c


@triton.jit
def _add(s0, s1, s2, u, half_bias, above, own, below, FAST: tl.constexpr):
    """Add one shifted row to the sums of the row above, its own, and the row below."""
    a = _silu(0.5 * u.to(tl.float32) + half_bias, FAST)
    return s0 + a * above, s1 + a * own, s2 + a * below


@triton.jit
def _gated_depthwise(
    u_ptr, bias_up_ptr, w_ptr, bias_ptr, y_ptr, rows, columns, hidden, strip,
    BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    signal = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = signal < hidden
    gate, width = signal + hidden, 2 * hidden
    across = tl.cdiv(columns, BLOCK_X)
    x = (tl.program_id(1) % across) * BLOCK_X + tl.arange(0, BLOCK_X)
    top = (tl.program_id(1) // across) * strip
    image = tl.program_id(2).to(tl.int64)
    up_signal = 0.5 * tl.load(bias_up_ptr + signal, mask=mask, other=0.0).to(tl.float32)[None, :]
    up_gate = 0.5 * tl.load(bias_up_ptr + gate, mask=mask, other=0.0).to(tl.float32)[None, :]
    b_signal = tl.load(bias_ptr + signal, mask=mask, other=0.0).to(tl.float32)[None, :]
    b_gate = 0.5 * tl.load(bias_ptr + gate, mask=mask, other=0.0).to(tl.float32)[None, :]
    w, v = _weights(w_ptr, signal, mask), _weights(w_ptr, gate, mask)
    u_ptr += image * rows * columns * width  # within an image 32 bits are enough
    y_ptr += image * rows * columns * hidden
    left = ((x > 0) & (x <= columns))[:, None] & mask[None, :]
    middle = (x < columns)[:, None] & mask[None, :]
    right = (x < columns - 1)[:, None] & mask[None, :]
    nothing = tl.zeros((BLOCK_X, BLOCK_C), tl.float32)
    s1, s2, g1, g2 = nothing, nothing, nothing, nothing  # sums of the rows y and y + 1, when row y comes
    bottom = tl.minimum(top + strip, rows)
    place = ((top - 1) * columns + x)[:, None] * width + signal[None, :]
    n0, n1, n2 = _row(u_ptr, place, top - 1, rows, width, left, middle, right)
    m0, m1, m2 = _row(u_ptr + hidden, place, top - 1, rows, width, left, middle, right)
    for y in range(top - 1, bottom + 1):
        s0, g0, s1, g1, s2, g2 = s1, g1, s2, g2, nothing, nothing
        a0, a1, a2, b0, b1, b2 = n0, n1, n2, m0, m1, m2
        place += columns * width  # the next row comes while this one is summed
        n0, n1, n2 = _row(u_ptr, place, y + 1, rows, width, left, middle, right)
        m0, m1, m2 = _row(u_ptr + hidden, place, y + 1, rows, width, left, middle, right)
        s0, s1, s2 = _add(s0, s1, s2, a0, up_signal, w[6], w[3], w[0], FAST)
        s0, s1, s2 = _add(s0, s1, s2, a1, up_signal, w[7], w[4], w[1], FAST)
        s0, s1, s2 = _add(s0, s1, s2, a2, up_signal, w[8], w[5], w[2], FAST)
        g0, g1, g2 = _add(g0, g1, g2, b0, up_gate, v[6], v[3], v[0], FAST)
        g0, g1, g2 = _add(g0, g1, g2, b1, up_gate, v[7], v[4], v[1], FAST)
        g0, g1, g2 = _add(g0, g1, g2, b2, up_gate, v[8], v[5], v[2], FAST)
        out = (s0 + b_signal) * _silu(0.5 * g0 + b_gate, FAST)
        target = ((y - 1) * columns + x)[:, None] * hidden + signal[None, :]
        tl.store(y_ptr + target, out.to(y_ptr.dtype.element_ty), mask=middle & (place * 0 + y > top))


def gated_depthwise(
    u: Tensor, bias_up: Tensor, weight: Tensor, bias: Tensor, rows: int, columns: int
) -> Tensor:
    """As in reference.py; all sums in float32."""
    u, weight = u.contiguous(), weight.contiguous()
    images, hidden = u.shape[0], u.shape[2] // 2
    y = u.new_empty(images, rows * columns, hidden)
    block_x, block_c, strip, warps = 4, 64, rows, 4
    places = triton.cdiv(columns, block_x) * triton.cdiv(rows, strip)
    grid = (triton.cdiv(hidden, block_c), places, images)
    fast = u.is_cuda and u.dtype != torch.float32 and torch.version.cuda is not None
    _gated_depthwise[grid](
        u, bias_up, weight, bias, y, rows, columns, hidden, strip,
        BLOCK_X=block_x, BLOCK_C=block_c, FAST=fast, num_warps=warps,
    )  # fmt: skip
    return y
