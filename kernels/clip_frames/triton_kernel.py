"""A program takes a few positions, with all their channels, of one frame or of a clip's pairs, and writes
each value to every place where a convolution will read it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .reference import EPSILON, HISTORY, Frames, Pending, first_of, frames_of, length_of

VALUES, PAIR_VALUES, WARPS = 4096, 1024, 4  # of a program: positions times channels in powers of two


@triton.jit
def _load(ptr, places, mask):
    return tl.load(ptr + places, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _reflected(place, count):
    """Of a place in a bordered row or column, that of the picture."""
    place = tl.abs(place - 1)
    return tl.where(place >= count, 2 * count - 2 - place, place)


@triton.jit
def _taken(
    x_ptr, middle_ptr, crossed_ptr, last_ptr, clip, frame, taken, size, places, mask, PAIRS: tl.constexpr
):
    """A frame of what the convolution made."""
    if PAIRS:
        start = (clip * (taken // 2) + frame // 2) * size
        x = _load(middle_ptr + start, places, mask)
        crossed = _load(crossed_ptr + start, places, mask)
        if frame % 2 == 0:
            x += crossed + _load(x_ptr + start, places, mask)
        else:
            x -= crossed + _load(last_ptr + start, places, mask)
    else:
        x = _load(x_ptr + (clip * taken + frame) * size, places, mask)
    return x


@triton.jit
def _sum(
    x_ptr, middle_ptr, crossed_ptr, last_ptr, bias_ptr, old_ptr, new_ptr, clip, frame, row, column, channels,
    mask, taken, old_frames, new_frames, rows, columns, C: tl.constexpr, K: tl.constexpr, A: tl.constexpr,
    B: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """x' of a frame of the enlarged, in float32."""
    source, step = frame // A, frame % A
    # the position that became this one, and which of its neighbours this is
    position = (row // B) * (columns // D) + column // D
    neighbour = (step * B + row % B) * D + column % D
    area = ((rows // B) * (columns // D)).to(tl.int64)
    at = neighbour[:, None] * C + channels[None, :]
    places = position[:, None] * (A * B * D * C) + at
    size = area * (A * B * D * C)
    x = _taken(x_ptr, middle_ptr, crossed_ptr, last_ptr, clip, source, taken, size, places, mask, PAIRS)
    if HAS_BIAS:
        x += _load(bias_ptr, at, mask)
    if HAS_RESIDUAL:
        own = (channels % K)[None, :] * (A * B * D) + neighbour[:, None]
        own += position[:, None] * (A * B * D * K)
        size = area * (A * B * D * K)
        if source < old_frames:
            x += _load(old_ptr + (clip * old_frames + source) * size, own, mask)
        else:
            x += _load(new_ptr + (clip * new_frames + source - old_frames) * size, own, mask)
    return x


@triton.jit
def _slot(
    x_ptr, middle_ptr, crossed_ptr, last_ptr, bias_ptr, old_ptr, new_ptr, past_ptr, total_ptr, kept_ptr, clip,
    slot, row, column, channels, mask, inside, taken, steps, drop, before, old_slots, slots, old_frames,
    new_frames, rows, columns, C: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    D: tl.constexpr, EPSILON: tl.constexpr, PAIRS: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, ACTIVE: tl.constexpr, TOTAL: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """One of `slots` frames: `before` old ones or, without `old_slots`, copies; `steps` new ones, perhaps a
    copy.
    """
    target = (row * columns + column)[:, None] * C + channels[None, :]  # in a picture without border
    size = (rows * columns).to(tl.int64) * C
    if slot < old_slots:
        value = _load(past_ptr + (clip * 2 + slot) * size, target, mask)
    else:
        frame = tl.minimum(tl.maximum(slot - before, 0), steps - 1)
        value = _sum(
            x_ptr, middle_ptr, crossed_ptr, last_ptr, bias_ptr, old_ptr, new_ptr, clip, frame + drop, row,
            column, channels, mask, taken, old_frames, new_frames, rows, columns, C, K, A, B, D, PAIRS,
            HAS_BIAS, HAS_RESIDUAL,
        )  # fmt: skip
        if TOTAL:  # noqa: SIM102  a constant, apart
            if frame == slot - before:  # not its copies
                kind = total_ptr.dtype.element_ty
                tl.store(total_ptr + (clip * steps + frame) * size + target, value.to(kind), mask=inside)
        if ACTIVE:
            value *= (1 / tl.sqrt(tl.sum(value * value, 1) / C + EPSILON))[:, None]
            value *= 1 / (1 + tl.exp(-value))
    value = value.to(kept_ptr.dtype.element_ty)
    if KEPT:  # noqa: SIM102
        if slot >= slots - 2:
            tl.store(kept_ptr + (clip * 2 + slot - slots + 2) * size + target, value, mask=inside)
    return value


@triton.jit
def _store(
    ptr, value, clip, slot, slots, area, places, channels, mask, C: tl.constexpr, STACKED: tl.constexpr
):
    """A frame as a convolution reads it."""
    size = area.to(tl.int64) * C
    if STACKED:
        at = places[:, None] * (3 * C) + channels[None, :]
        for tap in tl.static_range(3):
            if (slot >= tap) & (slot - tap < slots - 2):
                start = (clip * (slots - 2) + slot - tap) * size * 3 + tap * C
                tl.store(ptr + start + at, value, mask=mask)
    else:
        at = places[:, None] * C + channels[None, :]
        tl.store(ptr + (clip * slots + slot) * size + at, value, mask=mask)


@triton.jit
def _store_pair(ptr, e0, e1, e2, e3, clip, pair, slots, area, at, mask, C: tl.constexpr):
    """The sums and differences of two frames and the two before them."""
    count, size = slots // 2 - 1, area.to(tl.int64) * C
    four = e0 - e2, e1 + e2, e2 - e1, e1 - e3
    for part in tl.static_range(4):
        start = ((part * tl.num_programs(2) + clip) * count + pair) * size
        tl.store(ptr + start + at, four[part].to(ptr.dtype.element_ty), mask=mask)


# many sizes, which would all be compiled for: what has to be even is C
@triton.jit(
    do_not_specialize=[
        "taken", "steps", "drop", "before", "old_slots", "slots", "old_frames", "new_frames", "rows",
        "columns",
    ]
)  # fmt: skip
def _clip_frames(
    x_ptr, middle_ptr, crossed_ptr, last_ptr, bias_ptr, old_ptr, new_ptr, past_ptr, total_ptr, seen_ptr,
    kept_ptr, taken, steps, drop, before, old_slots, slots, old_frames, new_frames, rows, columns,
    C: tl.constexpr, K: tl.constexpr, A: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    EPSILON: tl.constexpr, PAIRS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ACTIVE: tl.constexpr, TOTAL: tl.constexpr, KEPT: tl.constexpr, STACKED: tl.constexpr,
    PAIRED: tl.constexpr, BORDER: tl.constexpr, POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One frame; or all pairs of a clip, of which neighbours share frames. `KEPT`: not only the sum."""
    places, channels = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS), tl.arange(0, BLOCK)
    clip = tl.program_id(2).to(tl.int64)
    wide, high = columns + 2 * BORDER, rows + 2 * BORDER
    area = high * wide
    row, column = places // wide, places % wide
    mask = (places < area)[:, None] & (channels < C)[None, :]
    inside = mask
    if BORDER:
        within = (row >= 1) & (row <= rows) & (column >= 1) & (column <= columns)
        inside = mask & within[:, None]
        row, column = _reflected(row, rows), _reflected(column, columns)
    if PAIRED:
        at = places[:, None] * C + channels[None, :]
        e0 = tl.zeros([POSITIONS, BLOCK], dtype=tl.float32)
        e1, e2, e3 = e0, e0, e0
        for number in range(slots // 2):
            for half in tl.static_range(2):
                # rounded, as what is kept: a frame counts the same as a new one and as an old one
                new = _slot(
                    x_ptr, middle_ptr, crossed_ptr, last_ptr, bias_ptr, old_ptr, new_ptr, past_ptr, total_ptr,
                    kept_ptr, clip, 2 * number + half, row, column, channels, mask, inside, taken, steps,
                    drop, before, old_slots, slots, old_frames, new_frames, rows, columns, C, K, A, B, D,
                    EPSILON, PAIRS, HAS_BIAS, HAS_RESIDUAL, ACTIVE, TOTAL, KEPT,
                ).to(tl.float32)  # fmt: skip
                e0, e1, e2, e3 = e1, e2, e3, new
            if number > 0:
                _store_pair(seen_ptr, e0, e1, e2, e3, clip, number - 1, slots, area, at, mask, C)
    else:
        slot = tl.program_id(1)
        value = _slot(
            x_ptr, middle_ptr, crossed_ptr, last_ptr, bias_ptr, old_ptr, new_ptr, past_ptr, total_ptr,
            kept_ptr, clip, slot, row, column, channels, mask, inside, taken, steps, drop, before, old_slots,
            slots, old_frames, new_frames, rows, columns, C, K, A, B, D, EPSILON, PAIRS, HAS_BIAS,
            HAS_RESIDUAL, ACTIVE, TOTAL, KEPT,
        )  # fmt: skip
        if KEPT and slots > 2:
            _store(seen_ptr, value, clip, slot, slots, area, places, channels, mask, C, STACKED)


def clip_frames(
    pending: Pending, past: Tensor | None, *, front: int, last: bool, active: bool, stacked: bool = False,
    paired: bool = False, reflect: bool = False, want_total: bool = False,
) -> Frames:  # fmt: skip
    """As in reference.py; the norm sees x' before it is rounded."""
    batch, steps, rows, columns, channels = shape = _shape(pending)
    before, empty = front if past is None else HISTORY, first_of(pending).new_empty
    slots = before + steps + last
    total, count = empty(shape) if want_total else None, slots - HISTORY
    seen = None
    if count:
        picture = rows + 2 * reflect, columns + 2 * reflect
        if paired:
            seen = empty((4, batch, count // 2, *picture, channels))
        else:
            seen = empty(
                (batch, *((count, *picture, 3 * channels) if stacked else (slots, *picture, channels)))
            )
    kept = empty((batch, HISTORY, rows, columns, channels))
    flags = {"ACTIVE": active, "STACKED": stacked, "PAIRED": paired, "BORDER": int(reflect)}
    _launch(pending, (past, total, seen, kept), before, slots, flags)
    return Frames(total, seen, kept)


def clip_sum(pending: Pending) -> Tensor:
    """As in reference.py."""
    shape = _shape(pending)
    total = first_of(pending).new_empty(shape)
    flags = {"ACTIVE": False, "STACKED": False, "PAIRED": False, "BORDER": 0}
    _launch(pending, (None, total, None, None), 0, shape[1], flags)
    return total


def _shape(pending: Pending) -> tuple[int, ...]:
    """Of x': [B, T', H', W', C]."""
    batch, _, rows, columns, channels = first_of(pending).shape
    a, b, c = pending.factor
    return batch, length_of(pending), b * rows, c * columns, channels // (a * b * c)


def _launch(
    pending: Pending, others: tuple[Tensor | None, ...], before: int, slots: int, flags: dict[str, Any]
) -> None:
    """Tensors that aren't there are never read."""
    batch, steps, rows, columns, channels = _shape(pending)
    x, bias, old, new, (a, b, c), drop = pending
    past, total, seen, kept = others
    border, block = flags["BORDER"], triton.next_power_of_2(channels)
    products = x if isinstance(x, tuple) else (x,) * 4
    given = *products, bias, old, new, past, total, seen, kept
    tensors = [products[0] if tensor is None else tensor.contiguous() for tensor in given]
    residual = old if new is None else new
    own = channels if residual is None else residual.shape[4] // (a * b * c)
    frames = [0 if part is None else part.shape[1] for part in (old, new)]
    positions = max(1, (PAIR_VALUES if flags["PAIRED"] else VALUES) // block)
    places = (rows + 2 * border) * (columns + 2 * border)
    grid = triton.cdiv(places, positions), 1 if flags["PAIRED"] else slots, batch
    _clip_frames[grid](
        *tensors, frames_of(pending), steps, drop, before, 0 if past is None else HISTORY, slots, *frames,
        rows, columns,
        C=channels, K=own, A=a, B=b, D=c, EPSILON=EPSILON, PAIRS=isinstance(x, tuple),
        HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, TOTAL=total is not None,
        KEPT=kept is not None, POSITIONS=positions, BLOCK=block, **flags,
        num_warps=WARPS,
    )  # fmt: skip
