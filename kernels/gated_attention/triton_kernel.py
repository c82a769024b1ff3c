"""A pass over rows for queries and one for keys, a sum over tokens, and one over tokens of a head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..linear_attention.triton_kernel import _angles, _row, _store, _tiles, _turned, split_sums

ROWS = 2  # of one program; the next row is on its way while one is computed
READ = 128, 32, 8  # tokens, dimensions of a key at once, warps
EXACT_READ = 64, 16, 8  # in float32, whose tiles are twice as large


@triton.jit(do_not_specialize=["tokens"])
def _rotated_rows(
    x_ptr, w_ptr, cos_ptr, sin_ptr, strength_ptr, out_ptr, tokens, heads, per_program, stride, eps,
    HAS_STRENGTH: tl.constexpr, HEAD: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
    GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    part, clip = tl.program_id(0), tl.program_id(1).to(tl.int64)
    width = heads * HEAD
    w = _row(w_ptr, heads, HEAD, D, TILE, GROUPS)
    for token in tl.range(
        part * per_program, tl.minimum((part + 1) * per_program, tokens), num_stages=STAGES
    ):
        row = clip * tokens + token
        cos, sin = _angles(cos_ptr, sin_ptr, token, HEAD, D, TILE)
        x = _row(x_ptr + row * stride, heads, HEAD, D, TILE, GROUPS)
        square = tl.zeros((TILE, D), tl.float32)
        for g in tl.static_range(GROUPS):
            square += x[g] * x[g]
        factor = 1 / tl.sqrt(tl.sum(tl.sum(square, 1), 0) / width + eps)
        cos, sin = cos * factor, sin * factor
        for g in tl.static_range(GROUPS):
            turned = _turned(x[g] * w[g], cos, sin, D, TILE)
            if HAS_STRENGTH:
                head = g * TILE + tl.arange(0, TILE)
                strength = tl.load(strength_ptr + row * heads + head, mask=head < heads, other=0.0)
                turned *= tl.sigmoid(strength.to(tl.float32))[:, None]
            _store(out_ptr + row * width, turned, g, heads, HEAD, D, TILE)


@triton.jit(do_not_specialize=["tokens"])
def _gated_heads(
    q_ptr, total_ptr, w_ptr, gate_ptr, out_ptr, tokens, heads, eps,
    HEAD: tl.constexpr, D: tl.constexpr, M: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """One head of M tokens: read from the sum, K of its dimensions at a time, then normed and gated.

    All heads of the same tokens come one after the other, so that whole rows are read at a time.
    """
    head, clip = tl.program_id(0), tl.program_id(2).to(tl.int64)
    dims = tl.arange(0, D)
    token = tl.program_id(1) * M + tl.arange(0, M)
    there = (token < tokens)[:, None]
    place = (clip * tokens + token)[:, None] * (heads * HEAD) + head * HEAD
    total_ptr += (clip * heads + head) * HEAD * HEAD
    out = tl.zeros((M, D), tl.float32)
    for begin in range(0, HEAD, K):
        k = begin + tl.arange(0, K)
        q = tl.load(q_ptr + place + k[None, :], mask=there & (k < HEAD)[None, :], other=0.0)
        inside = (k < HEAD)[:, None] & (dims < HEAD)[None, :]
        total = tl.load(total_ptr + k[:, None] * HEAD + dims[None, :], mask=inside, other=0.0)
        high = total.to(q.dtype)  # two halves keep what one would lose
        out = tl.dot(q, high, out, input_precision="ieee")
        out = tl.dot(q, (total - high.to(tl.float32)).to(q.dtype), out, input_precision="ieee")
    factor = 1 / tl.sqrt(tl.sum(out * out, 1) / HEAD + eps)
    inside = there & (dims < HEAD)[None, :]
    w = tl.load(w_ptr + dims, mask=dims < HEAD, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + place + dims[None, :], mask=inside, other=0.0).to(tl.float32)
    out = out * factor[:, None] * w[None, :] * tl.sigmoid(gate)
    tl.store(out_ptr + place + dims[None, :], out.to(out_ptr.dtype.element_ty), mask=inside)


def rotated_rows(
    qkv: Tensor, which: int, weight: Tensor, rotary: tuple[Tensor, Tensor], heads: int, eps: float,
    strength: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As in reference.py, rounded once."""
    qkv = qkv.contiguous()
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    cos, sin, weight = (part.contiguous() for part in (*rotary, weight))
    out = torch.empty(batch, tokens, width, device=qkv.device, dtype=qkv.dtype)
    x = qkv[:, :, which * width :]
    _rotated_rows[(triton.cdiv(tokens, ROWS), batch)](
        x, weight, cos, sin, x if strength is None else strength.contiguous(), out,
        tokens, heads, ROWS, 3 * width, eps,
        HAS_STRENGTH=strength is not None, **_tiles(width // heads, heads),
    )  # fmt: skip
    return out


def key_value_product(keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """As in reference.py. float32 GEMMs are exact; others multiply in the keys' dtype and sum in float32."""
    return split_sums(_even(values), _even(keys), heads)


def gated_heads(queries: Tensor, total: Tensor, weight: Tensor, gate: Tensor, eps: float) -> Tensor:
    """As in reference.py, rounded once; the sum is two halves in the queries' dtype."""
    batch, tokens, _ = queries.shape
    queries, total, weight, gate = (part.contiguous() for part in (queries, total, weight, gate))
    heads, head = total.shape[1], total.shape[2]
    out = torch.empty_like(queries)
    rows, dims, warps = EXACT_READ if queries.dtype == torch.float32 else READ
    _gated_heads[(heads, triton.cdiv(tokens, rows), batch)](
        queries, total, weight, gate, out, tokens, heads, eps,
        HEAD=head, D=max(16, triton.next_power_of_2(head)), M=rows, K=dims, num_warps=warps,
    )  # fmt: skip
    return out


def _even(x: Tensor) -> Tensor:
    """x [B, N, D] so that clip and token are one index, perhaps with gaps between the rows."""
    even = x.stride(2) == 1 and (len(x) == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if even else x.contiguous()
