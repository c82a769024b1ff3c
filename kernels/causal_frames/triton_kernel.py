"""A program takes a few pixels, with all their channels, of one time step or of a clip's pairs, and writes
each value to every place where a convolution will read it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .reference import HISTORY, LEAST_NORM, Frames, Parts

VALUES, PAIR_VALUES, WARPS = 4096, 2048, 4  # of a program: pixels times channels in powers of two


@triton.jit
def _subpixel_places(pixels, columns, C: tl.constexpr):
    """Where each pixel's channels begin in a picture of sub-pixels (see `unshuffled` in reference.py)."""
    row, column = pixels // columns, pixels % columns
    a, b = row % 2, column % 2
    place = (row // 2 + a) * (columns // 2 + 1) + column // 2 + b
    return place * (4 * C) + (2 * a + b) * C


@triton.jit
def _load(ptr, places, mask):
    return tl.load(ptr + places, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _step(
    x_ptr, frame, pixels, places, channels, mask, rows, columns, C: tl.constexpr, SUBPIXELS: tl.constexpr
):
    """One time step of x, plain or of sub-pixels."""
    if SUBPIXELS:
        x_ptr += frame * ((rows // 2 + 1).to(tl.int64) * (columns // 2 + 1) * (4 * C))
        places = _subpixel_places(pixels, columns, C)[:, None] + channels[None, :]
    else:
        x_ptr += frame * (rows * columns).to(tl.int64) * C
    return _load(x_ptr, places, mask)


@triton.jit
def _finished(
    x, bias_ptr, residual_ptr, gamma_ptr, total_ptr, start, places, channels, mask, C: tl.constexpr,
    LEAST: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, NORM: tl.constexpr,
    TOTAL: tl.constexpr,
):  # fmt: skip
    """x' of a time step that begins at `start`, kept if it is wanted; normed and activated, in float32."""
    if HAS_BIAS:
        x += _load(bias_ptr, channels, channels < C)[None, :]
    if HAS_RESIDUAL:
        x += _load(residual_ptr + start, places, mask)
    if TOTAL:
        tl.store(total_ptr + start + places, x.to(total_ptr.dtype.element_ty), mask=mask)
    if NORM:
        gamma = _load(gamma_ptr, channels, channels < C)
        x *= ((C**0.5) / tl.maximum(tl.sqrt(tl.sum(x * x, 1)), LEAST))[:, None] * gamma[None, :]
        x *= 1 / (1 + tl.exp(-x))
    return x


@triton.jit
def _pair(
    x_ptr, middle_ptr, crossed_ptr, last_ptr, pair, pixels, places, channels, mask, rows, columns,
    C: tl.constexpr, SUBPIXELS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Both time steps of a pair of x."""
    if PAIRS:
        start = pair * (rows * columns).to(tl.int64) * C
        middle, crossed = _load(middle_ptr + start, places, mask), _load(crossed_ptr + start, places, mask)
        first = _load(x_ptr + start, places, mask) + middle + crossed
        second = middle - crossed - _load(last_ptr + start, places, mask)
    else:
        first = _step(x_ptr, 2 * pair, pixels, places, channels, mask, rows, columns, C, SUBPIXELS)
        second = _step(x_ptr, 2 * pair + 1, pixels, places, channels, mask, rows, columns, C, SUBPIXELS)
    return first, second


@triton.jit
def _of_pair(x_ptr, middle_ptr, crossed_ptr, last_ptr, frame, places, mask, size):
    """One time step of pairs of x."""
    start = frame // 2 * size
    middle, crossed = _load(middle_ptr + start, places, mask), _load(crossed_ptr + start, places, mask)
    if frame % 2 == 0:
        x = middle + crossed + _load(x_ptr + start, places, mask)
    else:
        x = middle - crossed - _load(last_ptr + start, places, mask)
    return x


# many sizes, which would all be compiled for: what has to be even is C
@triton.jit(do_not_specialize=["steps", "rows", "columns"])
def _causal_frames(
    x_ptr, middle_ptr, crossed_ptr, last_ptr, bias_ptr, residual_ptr, gamma_ptr, past_ptr, total_ptr,
    seen_ptr, kept_ptr, steps, rows, columns,
    C: tl.constexpr, LEAST: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    HAS_PAST: tl.constexpr, SUBPIXELS: tl.constexpr, PAIRS: tl.constexpr, NORM: tl.constexpr,
    TOTAL: tl.constexpr, SEEN: tl.constexpr, STACKED: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # of 2 old and `steps` new ones; where only the sum is wanted, of the new ones
    step = tl.program_id(1) if SEEN else tl.program_id(1) + 2
    pixels, channels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.arange(0, BLOCK)
    clip = tl.program_id(2).to(tl.int64)
    size = (rows * columns).to(tl.int64) * C
    mask = (pixels < rows * columns)[:, None] & (channels < C)[None, :]
    places = pixels[:, None] * C + channels[None, :]
    frame = clip * steps + step - 2
    if step < 2:
        value = tl.zeros([PIXELS, BLOCK], dtype=tl.float32)
        if HAS_PAST:
            value = _load(past_ptr + (clip * 2 + step) * size, places, mask)
    else:
        if PAIRS:
            x = _of_pair(x_ptr, middle_ptr, crossed_ptr, last_ptr, frame, places, mask, size)
        else:
            x = _step(x_ptr, frame, pixels, places, channels, mask, rows, columns, C, SUBPIXELS)
        value = _finished(
            x, bias_ptr, residual_ptr, gamma_ptr, total_ptr, frame * size, places, channels, mask, C, LEAST,
            HAS_BIAS, HAS_RESIDUAL, NORM, TOTAL,
        )  # fmt: skip
    if SEEN:
        value = value.to(seen_ptr.dtype.element_ty)
        if STACKED:
            stacked = pixels[:, None] * (3 * C) + channels[None, :]
            for tap in tl.static_range(3):
                if (step >= tap) & (step - tap < steps):
                    start = (clip * steps + step - tap) * size * 3 + tap * C
                    tl.store(seen_ptr + start + stacked, value, mask=mask)
        else:
            tl.store(seen_ptr + (clip * (steps + 2) + step) * size + places, value, mask=mask)
        if step >= steps:
            tl.store(kept_ptr + (clip * 2 + step - steps) * size + places, value, mask=mask)


@triton.jit(do_not_specialize=["all_pairs", "rows", "columns"])
def _paired_frames(
    x_ptr, middle_ptr, crossed_ptr, last_ptr, bias_ptr, residual_ptr, gamma_ptr, past_ptr, total_ptr,
    seen_ptr, kept_ptr, all_pairs, rows, columns,
    C: tl.constexpr, LEAST: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    SUBPIXELS: tl.constexpr, PAIRS: tl.constexpr, TOTAL: tl.constexpr, COUNT: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`COUNT` pairs of each clip, of `all_pairs` in all clips."""
    pixels, channels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.arange(0, BLOCK)
    clip = tl.program_id(1).to(tl.int64)
    size = (rows * columns).to(tl.int64) * C
    mask = (pixels < rows * columns)[:, None] & (channels < C)[None, :]
    places = pixels[:, None] * C + channels[None, :]
    kind = seen_ptr.dtype.element_ty
    e0 = _load(past_ptr + clip * 2 * size, places, mask)
    e1 = _load(past_ptr + (clip * 2 + 1) * size, places, mask)
    for number in tl.static_range(COUNT):
        pair = clip * COUNT + number
        e2, e3 = _pair(
            x_ptr, middle_ptr, crossed_ptr, last_ptr, pair, pixels, places, channels, mask, rows, columns, C,
            SUBPIXELS, PAIRS,
        )  # fmt: skip
        e2 = _finished(
            e2, bias_ptr, residual_ptr, gamma_ptr, total_ptr, 2 * pair * size, places, channels, mask, C,
            LEAST, HAS_BIAS, HAS_RESIDUAL, True, TOTAL,
        )  # fmt: skip
        e3 = _finished(
            e3, bias_ptr, residual_ptr, gamma_ptr, total_ptr, (2 * pair + 1) * size, places, channels, mask,
            C, LEAST, HAS_BIAS, HAS_RESIDUAL, True, TOTAL,
        )  # fmt: skip
        # rounded, as what is kept: a step counts the same as a new one and as an old one
        e2, e3 = e2.to(kind).to(tl.float32), e3.to(kind).to(tl.float32)
        four = e0 - e2, e1 + e2, e2 - e1, e1 - e3
        for part in tl.static_range(4):
            tl.store(seen_ptr + (part * all_pairs + pair) * size + places, four[part].to(kind), mask=mask)
        e0, e1 = e2, e3
    tl.store(kept_ptr + clip * 2 * size + places, e0.to(kind), mask=mask)
    tl.store(kept_ptr + (clip * 2 + 1) * size + places, e1.to(kind), mask=mask)


def causal_frames(
    parts: Parts, past: Tensor | None, gamma: Tensor | None, *, stacked: bool = False,
    want_total: bool = False,
) -> Frames:  # fmt: skip
    """As in reference.py; the norm sees x' before it is rounded."""
    batch, steps, *area, channels = shape = _shape(parts)
    total = _empty(parts, shape) if want_total else None
    size = (steps, *area, 3 * channels) if stacked else (HISTORY + steps, *area, channels)
    seen, kept = _empty(parts, (batch, *size)), _empty(parts, (batch, HISTORY, *area, channels))
    _launch(parts, past, gamma, total, seen, kept, stacked)
    return Frames(total, seen, kept)


def summed(parts: Parts) -> Tensor:
    """As in reference.py."""
    total = _empty(parts, _shape(parts))
    _launch(parts, None, None, total, None, None, stacked=False)
    return total


def paired_frames(parts: Parts, past: Tensor, gamma: Tensor, *, want_total: bool = False) -> Frames:
    """As in reference.py."""
    batch, steps, *picture = shape = _shape(parts)
    total = _empty(parts, shape) if want_total else None
    seen, kept = _empty(parts, (4, batch, steps // 2, *picture)), _empty(parts, (batch, HISTORY, *picture))
    arguments, options = _arguments(parts, past, gamma, total, seen, kept, PAIR_VALUES)
    rows, columns, _ = picture
    _paired_frames[(triton.cdiv(rows * columns, options["PIXELS"]), batch)](
        *arguments, batch * steps // 2, rows, columns, **options, COUNT=steps // 2, num_warps=WARPS
    )
    return Frames(total, seen, kept)


def _empty(parts: Parts, shape: tuple[int, ...]) -> Tensor:
    return _first(parts).new_empty(shape)


def _first(parts: Parts) -> Tensor:
    return parts.x[0] if isinstance(parts.x, tuple) else parts.x


def _shape(parts: Parts) -> tuple[int, ...]:
    """Of x': [B, T, H, W, C]."""
    batch, steps, rows, columns, channels = _first(parts).shape
    if isinstance(parts.x, tuple):
        return batch, 2 * steps, rows, columns, channels
    if parts.subpixels:
        return batch, steps, 2 * (rows - 1), 2 * (columns - 1), channels // 4
    return batch, steps, rows, columns, channels


def _launch(
    parts: Parts, past: Tensor | None, gamma: Tensor | None, total: Tensor | None, seen: Tensor | None,
    kept: Tensor | None, stacked: bool,
) -> None:  # fmt: skip
    batch, steps, rows, columns, _ = _shape(parts)
    arguments, options = _arguments(parts, past, gamma, total, seen, kept, VALUES)
    all_steps = steps if seen is None else HISTORY + steps
    _causal_frames[(triton.cdiv(rows * columns, options["PIXELS"]), all_steps, batch)](
        *arguments, steps, rows, columns, **options, HAS_PAST=past is not None, NORM=gamma is not None,
        SEEN=seen is not None, STACKED=stacked, num_warps=WARPS,
    )  # fmt: skip


def _arguments(parts: Parts, *others: Any) -> tuple[list[Tensor], dict[str, Any]]:
    """What both kernels take: tensors, of which those that aren't there are never read, and constants."""
    past, gamma, total, seen, kept, values = others
    products = parts.x if isinstance(parts.x, tuple) else (parts.x,) * 4
    given = *products, parts.bias, parts.residual, gamma, past, total, seen, kept
    tensors = [products[0] if tensor is None else tensor.contiguous() for tensor in given]
    channels = _shape(parts)[-1]
    block = triton.next_power_of_2(channels)
    return tensors, {
        "C": channels, "LEAST": LEAST_NORM, "HAS_BIAS": parts.bias is not None,
        "HAS_RESIDUAL": parts.residual is not None, "SUBPIXELS": parts.subpixels,
        "PAIRS": isinstance(parts.x, tuple), "TOTAL": total is not None,
        "PIXELS": max(1, values // block), "BLOCK": block,
    }  # fmt: skip
