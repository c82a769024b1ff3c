"""One program per token: each source is read once, and stays in registers from the sums to the norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dispatch import MOST_SOURCES
from ..fp8_gemm.reference import FP8, LARGEST, LEAST_SCALE, Fp8Rows
from ..fp8_gemm.triton_kernel import row_scale
from ..residual_norm.triton_kernel import grouped_rows
from .reference import Mixed, Source

WARPS, TILE = 4, 512  # of a row; numbers at once, so that 2,560 leave no lane idle
PLACES = 0, 4, MOST_SOURCES - 1  # of other sources: few variants to compile, and empty ones read nothing


@triton.jit
def _load(row_ptr, width, TILE: tl.constexpr, TILES: tl.constexpr):
    """A row in tiles, in its own dtype: half the registers until it is used. Zero where masked."""
    row = ()
    for t in tl.static_range(TILES):
        columns = t * TILE + tl.arange(0, TILE)
        row += (tl.load(row_ptr + columns, mask=columns < width, other=0.0),)
    return row


@triton.jit
def _store(row_ptr, row, width, TILE: tl.constexpr, TILES: tl.constexpr):
    for t in tl.static_range(TILES):
        columns = t * TILE + tl.arange(0, TILE)
        tl.store(row_ptr + columns, row[t].to(row_ptr.dtype.element_ty), mask=columns < width)


@triton.jit
def _dot(a, b, TILE: tl.constexpr, TILES: tl.constexpr):
    """The sum of products of two rows, float32."""
    total = tl.zeros((TILE,), tl.float32)
    for t in tl.static_range(TILES):
        total += a[t].to(tl.float32) * b[t].to(tl.float32)
    return tl.sum(total, 0)


@triton.jit
def _add(sums, row, factor, TILES: tl.constexpr):
    """sums + factor * row."""
    more = ()
    for t in tl.static_range(TILES):
        more += (sums[t] + factor * row[t].to(tl.float32),)
    return more


@triton.jit
def _mixed(newest, mine, values, others, OTHERS: tl.constexpr, TILES: tl.constexpr):
    """The mean of the newest row, whose logit is `mine`, and the other rows, weighted by their softmax."""
    most = mine
    for j in tl.static_range(OTHERS):
        most = tl.maximum(most, others[j])
    share = tl.exp(mine - most)
    total = share
    for j in tl.static_range(OTHERS):
        total += tl.exp(others[j] - most)
    mix = ()
    for t in tl.static_range(TILES):
        mix += (newest[t] * (share / total),)
    for j in tl.static_range(OTHERS):
        mix = _add(mix, values[j], tl.exp(others[j] - most) / total, TILES)
    return mix


@triton.jit
def _newest(
    x_ptr, branch_ptr, extra_ptr, gate_ptr, width,
    HAS_BRANCH: tl.constexpr, HAS_EXTRA: tl.constexpr, HAS_GATE: tl.constexpr, TILE: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    """x + gate * branch + extra of one row, float32."""
    newest = ()
    for t in tl.static_range(TILES):
        columns = t * TILE + tl.arange(0, TILE)
        mask = columns < width
        x = tl.load(x_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        if HAS_BRANCH:
            branch = tl.load(branch_ptr + columns, mask=mask, other=0.0).to(tl.float32)
            if HAS_GATE:
                branch *= tl.load(gate_ptr + columns, mask=mask, other=0.0).to(tl.float32)
            if HAS_EXTRA:
                branch += tl.load(extra_ptr + columns, mask=mask, other=0.0).to(tl.float32)
            x += branch
        newest += (x,)
    return newest


@triton.jit
def _normed(mix, shift_ptr, scale_ptr, width, eps, TILE: tl.constexpr, TILES: tl.constexpr):
    """LayerNorm(mix) * (1 + scale) + shift, and its largest magnitude."""
    total = tl.zeros((TILE,), tl.float32)
    for t in tl.static_range(TILES):
        total += mix[t]
    mean = tl.sum(total, 0) / width
    square = tl.zeros((TILE,), tl.float32)
    for t in tl.static_range(TILES):
        centered = tl.where(t * TILE + tl.arange(0, TILE) < width, mix[t] - mean, 0.0)
        square += centered * centered
    factor = 1 / tl.sqrt(tl.sum(square, 0) / width + eps)
    shift, scale = _load(shift_ptr, width, TILE, TILES), _load(scale_ptr, width, TILE, TILES)
    h = ()
    largest = tl.zeros((TILE,), tl.float32)
    for t in tl.static_range(TILES):
        inside = t * TILE + tl.arange(0, TILE) < width
        row = (mix[t] - mean) * factor * (1 + scale[t].to(tl.float32)) + shift[t].to(tl.float32)
        largest = tl.maximum(largest, tl.where(inside, tl.abs(row), 0.0))
        h += (row,)
    return h, largest


# clips have different numbers of tokens and frames, and blocks of earlier sums
@triton.jit(do_not_specialize=["tokens", "group", "groups", "count"])
def _residual_mix(
    x_ptr, branch_ptr, extra_ptr, gate_ptr, readers_ptr, shift_ptr, scale_ptr,
    v0_ptr, v1_ptr, v2_ptr, v3_ptr, v4_ptr, logits0_ptr, logits1_ptr, logits2_ptr, logits3_ptr, logits4_ptr,
    newest_ptr, logits_ptr, mix_ptr, h_ptr, row_scale_ptr,
    tokens, group, groups, count, width, gate_row, shift_row, scale_row, eps, mix_eps,
    HAS_BRANCH: tl.constexpr, HAS_EXTRA: tl.constexpr, HAS_GATE: tl.constexpr, OTHERS: tl.constexpr,
    READERS: tl.constexpr, READER: tl.constexpr, WANT_LOGITS: tl.constexpr, WANT_MIX: tl.constexpr,
    ROW_SCALES: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr, LARGEST: tl.constexpr,
    LEAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # of B * N
    clip, token = row // tokens, row % tokens
    modulation = clip * groups + token // group
    here = row * width
    newest = _newest(
        x_ptr + here, branch_ptr + here, extra_ptr + here, gate_ptr + modulation * gate_row, width,
        HAS_BRANCH, HAS_EXTRA, HAS_GATE, TILE, TILES,
    )  # fmt: skip
    places = (v0_ptr, v1_ptr, v2_ptr, v3_ptr, v4_ptr)
    kept = (logits0_ptr, logits1_ptr, logits2_ptr, logits3_ptr, logits4_ptr)
    values, others = (), ()
    for j in tl.static_range(
        OTHERS
    ):  # on their way while the newest is summed; those from `count` on are none
        values += (_load(places[j] + here, tl.where(j < count, width, 0), TILE, TILES),)
        others += (tl.load(kept[j] + row * READERS + READER, mask=j < count, other=float("-inf")),)
    if HAS_BRANCH:
        _store(newest_ptr + here, newest, width, TILE, TILES)
    mix = newest
    if OTHERS > 0 or WANT_LOGITS:
        factor = 1 / tl.sqrt(_dot(newest, newest, TILE, TILES) / width + mix_eps)
    if WANT_LOGITS:
        for r in tl.static_range(READERS):
            w = _load(readers_ptr + r * width, width, TILE, TILES)
            tl.store(logits_ptr + row * READERS + r, factor * _dot(newest, w, TILE, TILES))
    if OTHERS > 0:
        w = _load(readers_ptr + READER * width, width, TILE, TILES)
        mix = _mixed(newest, factor * _dot(newest, w, TILE, TILES), values, others, OTHERS, TILES)
    if WANT_MIX:
        _store(mix_ptr + here, mix, width, TILE, TILES)
    shift, scale = shift_ptr + modulation * shift_row, scale_ptr + modulation * scale_row
    h, largest = _normed(mix, shift, scale, width, eps, TILE, TILES)
    if ROW_SCALES:
        factor = row_scale(tl.max(largest, 0), LARGEST, LEAST)
        tl.store(row_scale_ptr + row, factor)
        scaled = ()
        for t in tl.static_range(TILES):
            scaled += (h[t] * (1 / factor),)
        h = scaled
    _store(h_ptr + here, h, width, TILE, TILES)


def residual_mix(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, extra: Tensor | None, others: Sequence[Source],
    readers: Tensor, reader: int, shift: Tensor, scale: Tensor, eps: float, mix_eps: float,
    want_logits: bool = False, want_mix: bool = False,
) -> Mixed:  # fmt: skip
    """As in reference.py. Logits and mix see the newest sum before it is rounded to x's dtype."""
    parts, numbers = (x, branch, gate, extra), (eps, mix_eps)
    return _launch(parts, others, readers, reader, (shift, scale), numbers, want_logits, want_mix, x.dtype)


def residual_mix_fp8(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, extra: Tensor | None, others: Sequence[Source],
    readers: Tensor, reader: int, shift: Tensor, scale: Tensor, eps: float, mix_eps: float,
    want_logits: bool = False, want_mix: bool = False,
) -> Mixed:  # fmt: skip
    """As in reference.py; h is not rounded to x's dtype in between."""
    parts, numbers = (x, branch, gate, extra), (eps, mix_eps)
    return _launch(parts, others, readers, reader, (shift, scale), numbers, want_logits, want_mix, FP8)


def _launch(
    parts: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None], others: Sequence[Source],
    readers: Tensor, reader: int, tables: tuple[Tensor, Tensor], numbers: tuple[float, float],
    want_logits: bool, want_mix: bool, h_dtype: torch.dtype,
) -> Mixed:  # fmt: skip
    if len(others) >= MOST_SOURCES:
        raise ValueError(f"{len(others) + 1} sources were given; the kernel mixes at most {MOST_SOURCES}.")
    x, branch, gate, extra = parts
    x = x.contiguous()
    batch, tokens, width = x.shape
    groups = max(table.shape[1] for table in (gate, *tables) if table is not None)
    if tokens % groups:
        raise ValueError(f"{tokens} tokens cannot be modulated in {groups} groups of one size.")
    newest = x if branch is None else torch.empty_like(x)
    logits = torch.empty(batch, tokens, len(readers), device=x.device) if want_logits else None
    apart = want_mix and bool(others)  # the mix of one source is that source
    mix = torch.empty_like(x) if apart else newest if want_mix else None
    h = torch.empty(x.shape, device=x.device, dtype=h_dtype)
    row_scales = torch.empty(batch, tokens, 1, device=x.device) if h_dtype == FP8 else x
    flags = {
        "HAS_BRANCH": branch is not None, "HAS_EXTRA": extra is not None, "HAS_GATE": gate is not None,
        "OTHERS": next(most for most in PLACES if most >= len(others)), "READERS": len(readers),
        "READER": reader, "WANT_LOGITS": want_logits,
        "WANT_MIX": apart, "ROW_SCALES": h_dtype == FP8,
    }  # fmt: skip
    # x stands in for what isn't there, and is never read as that
    gate, shift, scale = (x if table is None else grouped_rows(table, x, groups) for table in (gate, *tables))
    branch, extra = (x if part is None else part.expand_as(x).contiguous() for part in (branch, extra))
    values, kept = (
        [*(part.contiguous() for part in column), *(PLACES[-1] - len(others)) * [stand_in]]
        for column, stand_in in _columns(others, x)
    )
    tile = min(TILE, triton.next_power_of_2(width))
    _residual_mix[(batch * tokens,)](
        x, branch, extra, gate, readers.contiguous(), shift, scale, *values, *kept,
        newest, x if logits is None else logits, x if mix is None else mix, h, row_scales,
        tokens, tokens // groups, groups, len(others), width,
        gate.stride(1), shift.stride(1), scale.stride(1), *numbers,
        **flags, TILE=tile, TILES=triton.cdiv(width, tile), LARGEST=LARGEST, LEAST=LEAST_SCALE,
        num_warps=WARPS,
    )  # fmt: skip
    return Mixed(newest, logits, mix, Fp8Rows(h, row_scales) if h_dtype == FP8 else h)


def _columns(others: Sequence[Source], x: Tensor) -> list[tuple[list[Tensor], Tensor]]:
    """Values and logits of all sources, each with a tensor of its dtype that fills the places behind them."""
    values, logits = ([source[part] for source in others] for part in range(2))
    return [(values, x), (logits, logits[0] if logits else x)]
