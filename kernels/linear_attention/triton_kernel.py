"""Two passes over rows, and one over tokens between them.

A program of a pass over rows owns whole rows, so norm, ReLU, rotation and denominators happen in registers,
and each number is read once. The sums over tokens are split, and the parts added in a fixed order: two runs
are bit-identical.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import LEAST_MEAN, KeyValueSum

HEADS_AT_ONCE = 4  # of a row: a tile of [4, d], d in the next power of two (README.md: what was tried)
KEY_ROWS, QUERY_ROWS = 32, 2  # of one program; the next row is on its way while one is computed
ROW_WARPS, ROW_STAGES = 2, 3
PROGRAMS = 480  # of the sums: enough for a large chip, few enough parts to add
LEAST_SPLIT = 512  # tokens of each; a clip of 81 frames has 2,688
SUMS, EXACT_SUMS = (64, 4, 2), (32, 8, 1)  # tokens of a step, warps, stages
FOLD = 64, 32, 4  # rows of the weight, dimensions at once, warps


@triton.jit
def _row(x_ptr, heads, HEAD: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, GROUPS: tl.constexpr):
    """All heads of a row, float32, in tiles of [TILE, D]; zero where masked."""
    head, dim = tl.arange(0, TILE)[:, None], tl.arange(0, D)[None, :]
    row = ()
    for g in tl.static_range(GROUPS):
        there = (g * TILE + head < heads) & (dim < HEAD)
        x = tl.load(x_ptr + (g * TILE + head) * HEAD + dim, mask=there, other=0.0)
        row += (x.to(tl.float32),)
    return row


@triton.jit
def _features(x_ptr, w, heads, width, eps, HEAD: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
              GROUPS: tl.constexpr):  # fmt: skip
    """(f in tiles, s): f * s is relu(norm(x)) of a row. s is positive, so a later factor can include it."""
    x = _row(x_ptr, heads, HEAD, D, TILE, GROUPS)
    square = tl.zeros((TILE, D), tl.float32)
    for g in tl.static_range(GROUPS):
        square += x[g] * x[g]
    f = ()
    for g in tl.static_range(GROUPS):
        f += (tl.maximum(x[g] * w[g], 0.0),)
    return f, 1 / tl.sqrt(tl.sum(tl.sum(square, 1), 0) / width + eps)


@triton.jit
def _angles(cos_ptr, sin_ptr, token, HEAD: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr):
    """Cosines and sines of one token, the same for each head of a tile: [TILE, D / 2]."""
    pair = tl.arange(0, D // 2)[None, :] + tl.zeros((TILE, 1), tl.int32)
    place, mask = token * (HEAD // 2) + pair, pair < HEAD // 2
    return tl.load(cos_ptr + place, mask=mask, other=0.0), tl.load(sin_ptr + place, mask=mask, other=0.0)


@triton.jit
def _turned(f, cos, sin, D: tl.constexpr, TILE: tl.constexpr):
    even, odd = tl.split(tl.reshape(f, (TILE, D // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (TILE, D))


@triton.jit
def _store(x_ptr, x, g: tl.constexpr, heads, HEAD: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr):
    head, dim = g * TILE + tl.arange(0, TILE)[:, None], tl.arange(0, D)[None, :]
    tl.store(x_ptr + head * HEAD + dim, x.to(x_ptr.dtype.element_ty), mask=(head < heads) & (dim < HEAD))


# chunks of a stream have different numbers of tokens: this kernel and the next two do not specialise on it
@triton.jit(do_not_specialize=["tokens"])
def _key_rows(
    k_ptr, w_ptr, cos_ptr, sin_ptr, out_ptr, ksum_ptr, tokens, heads, per_program, stride, eps,
    HEAD: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    part, clip = tl.program_id(0), tl.program_id(1).to(tl.int64)
    width = heads * HEAD
    w = _row(w_ptr, heads, HEAD, D, TILE, GROUPS)
    sums = ()
    for _ in tl.static_range(GROUPS):
        sums += (tl.zeros((TILE, D), tl.float32),)
    for token in tl.range(
        part * per_program, tl.minimum((part + 1) * per_program, tokens), num_stages=STAGES
    ):
        row = clip * tokens + token
        cos, sin = _angles(cos_ptr, sin_ptr, token, HEAD, D, TILE)
        f, s = _features(k_ptr + row * stride, w, heads, width, eps, HEAD, D, TILE, GROUPS)
        cos, sin = cos * s, sin * s
        more = ()
        for g in tl.static_range(GROUPS):
            more += (sums[g] + f[g] * s,)
            _store(out_ptr + row * width, _turned(f[g], cos, sin, D, TILE), g, heads, HEAD, D, TILE)
        sums = more
    for g in tl.static_range(GROUPS):
        _store(ksum_ptr + (part * tl.num_programs(1) + clip) * width, sums[g], g, heads, HEAD, D, TILE)


@triton.jit(do_not_specialize=["tokens"])
def _query_rows(
    q_ptr, w_ptr, cos_ptr, sin_ptr, ksum_ptr, out_ptr, tokens, heads, per_program, stride, norm_eps, eps,
    HEAD: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr,
    LEAST: tl.constexpr,
):  # fmt: skip
    part, clip = tl.program_id(0), tl.program_id(1).to(tl.int64)
    width = heads * HEAD
    w = _row(w_ptr, heads, HEAD, D, TILE, GROUPS)
    ksum = _row(ksum_ptr + clip * width, heads, HEAD, D, TILE, GROUPS)
    for token in tl.range(
        part * per_program, tl.minimum((part + 1) * per_program, tokens), num_stages=STAGES
    ):
        row = clip * tokens + token
        cos, sin = _angles(cos_ptr, sin_ptr, token, HEAD, D, TILE)
        f, s = _features(q_ptr + row * stride, w, heads, width, norm_eps, HEAD, D, TILE, GROUPS)
        for g in tl.static_range(GROUPS):
            mean = tl.sum(ksum[g], 1) / HEAD
            share = tl.where(mean > LEAST, mean, 0.0) * s / (tl.sum(f[g] * ksum[g], 1) * s + eps)
            q = _turned(f[g], cos, sin, D, TILE) * share[:, None]
            _store(out_ptr + row * width, q, g, heads, HEAD, D, TILE)


@triton.jit(do_not_specialize=["tokens"])
def _sums(
    k_ptr, v_ptr, vk_ptr, tokens, heads, per_split, k_stride, v_stride,
    HEAD: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    split, head, clip = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    dims = tl.arange(0, D)
    mask = dims < HEAD
    k_ptr += clip * tokens * k_stride + head * HEAD
    v_ptr += clip * tokens * v_stride + head * HEAD
    vk = tl.zeros((D, D), tl.float32)
    end = tl.minimum((split + 1) * per_split, tokens)
    for begin in range(split * per_split, end, N):
        n = begin + tl.arange(0, N)
        there = (n < end)[:, None] & mask[None, :]
        row = n.to(tl.int64)[:, None]
        k = tl.load(k_ptr + row * k_stride + dims[None, :], mask=there, other=0.0)
        v = tl.load(v_ptr + row * v_stride + dims[None, :], mask=there, other=0.0)
        vk = tl.dot(tl.trans(v), k, vk, input_precision="ieee")
    part = (split * tl.num_programs(2) + clip) * heads + head
    square = vk_ptr + part * HEAD * HEAD + dims[:, None] * HEAD + dims[None, :]
    tl.store(square, vk, mask=mask[:, None] & mask[None, :])


@triton.jit
def _fold(
    w_ptr, vk_ptr, ksum_ptr, out_ptr, rows, heads,
    HEAD: tl.constexpr, D: tl.constexpr, M: tl.constexpr, K: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """One head of the weight's rows times that head's sum, K of its dimensions at a time."""
    head, clip = tl.program_id(1), tl.program_id(2).to(tl.int64)
    dims = tl.arange(0, D)
    row = tl.program_id(0) * M + tl.arange(0, M)
    place = row[:, None] * (heads * HEAD) + head * HEAD
    vk_ptr += (clip * heads + head) * HEAD * HEAD
    ksum = tl.load(ksum_ptr + (clip * heads + head) * HEAD + dims, mask=dims < HEAD, other=0.0)
    mean = tl.sum(ksum, 0) / HEAD
    share = tl.where(mean > LEAST, 1 / tl.maximum(mean, LEAST), 0.0)
    out = tl.zeros((M, D), tl.float32)
    for begin in range(0, HEAD, K):
        k = begin + tl.arange(0, K)
        w = tl.load(w_ptr + place + k[None, :], mask=(row < rows)[:, None] & (k < HEAD)[None, :], other=0.0)
        there = (k < HEAD)[:, None] & (dims < HEAD)[None, :]
        vk = tl.load(vk_ptr + k[:, None] * HEAD + dims[None, :], mask=there, other=0.0) * share
        high = vk.to(w.dtype)  # two halves keep what one would lose
        out = tl.dot(w, high, out, input_precision="ieee")
        out = tl.dot(w, (vk - high.to(tl.float32)).to(w.dtype), out, input_precision="ieee")
    there = (row < rows)[:, None] & (dims < HEAD)[None, :]
    out_ptr += clip * rows * heads * HEAD
    tl.store(out_ptr + place + dims[None, :], out.to(out_ptr.dtype.element_ty), mask=there)


def _tiles(head: int, heads: int) -> dict[str, int]:
    tile = min(HEADS_AT_ONCE, triton.next_power_of_2(heads))
    d = max(16, triton.next_power_of_2(head))
    return {
        "HEAD": head,
        "D": d,
        "TILE": tile,
        "GROUPS": triton.cdiv(heads, tile),
        "STAGES": ROW_STAGES,
        "num_warps": ROW_WARPS,
    }


def key_value_sum(
    qkv: Tensor, weight: Tensor, rotary: tuple[Tensor, Tensor], heads: int, eps: float
) -> KeyValueSum:
    """As in reference.py. float32 GEMMs are exact; others multiply in qkv's dtype and sum in float32."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    qkv, head = qkv.contiguous(), width // heads
    cos, sin, weight = (part.contiguous() for part in (*rotary, weight))
    turned = torch.empty(batch, tokens, width, device=qkv.device, dtype=qkv.dtype)
    programs = triton.cdiv(tokens, KEY_ROWS)
    ksum = torch.empty(programs, batch, heads, head, device=qkv.device, dtype=torch.float32)
    k, v = (qkv[:, :, part * width : (part + 1) * width] for part in (1, 2))
    _key_rows[(programs, batch)](
        k, weight, cos, sin, turned, ksum, tokens, heads, KEY_ROWS, 3 * width, eps, **_tiles(head, heads)
    )
    return KeyValueSum(split_sums(turned, v, heads), ksum.sum(0))


def split_sums(keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """The sum over tokens of v k^T, each [B, N, D] with rows that may have gaps: [B, A, d, d], float32."""
    batch, tokens, width = keys.shape
    head = width // heads
    step, warps, stages = EXACT_SUMS if keys.dtype == torch.float32 else SUMS
    split = max(LEAST_SPLIT, tokens * heads * batch // PROGRAMS // step * step)  # tokens of one program
    splits = triton.cdiv(tokens, split)
    vk = torch.empty(splits, batch, heads, head, head, device=keys.device, dtype=torch.float32)
    _sums[(splits, heads, batch)](
        keys, values, vk, tokens, heads, split, keys.stride(1), values.stride(1),
        HEAD=head, N=step, D=max(16, triton.next_power_of_2(head)), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return vk.sum(0)


def query_rows(
    qkv: Tensor, weight: Tensor, rotary: tuple[Tensor, Tensor], ksum: Tensor, heads: int, norm_eps: float,
    eps: float,
) -> Tensor:  # fmt: skip
    """As in reference.py."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    cos, sin, weight, ksum = (part.contiguous() for part in (*rotary, weight, ksum))
    out = torch.empty(batch, tokens, width, device=qkv.device, dtype=qkv.dtype)
    _query_rows[(triton.cdiv(tokens, QUERY_ROWS), batch)](
        qkv.contiguous(), weight, cos, sin, ksum, out, tokens, heads, QUERY_ROWS, 3 * width, norm_eps, eps,
        **_tiles(width // heads, heads), LEAST=LEAST_MEAN,
    )  # fmt: skip
    return out


def folded_weight(weight: Tensor, total: KeyValueSum) -> Tensor:
    """As in reference.py."""
    vk, ksum = (part.contiguous() for part in total)
    batch, heads, head, _ = vk.shape
    out = torch.empty(batch, *weight.shape, device=weight.device, dtype=weight.dtype)
    rows, dims, warps = FOLD
    _fold[(triton.cdiv(len(weight), rows), heads, batch)](
        weight.contiguous(), vk, ksum, out, len(weight), heads,
        HEAD=head, D=max(16, triton.next_power_of_2(head)), M=rows, K=dims, LEAST=LEAST_MEAN, num_warps=warps,
    )  # fmt: skip
    return out
