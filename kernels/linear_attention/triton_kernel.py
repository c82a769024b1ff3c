"""Three passes over q, k and v: root mean squares of rows, the sums over keys, the sums read by queries.

Norm, ReLU and rotation happen in registers, so none of them is ever written. A head of d dimensions lies in a tile of the next
power of two, masked. The sums over tokens are split, and the parts added in a fixed order: two runs have the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import KeyValueSum

SPLIT_TOKENS = 1024  # of one program: enough programs for a large chip, few enough parts to add
# tokens of a step, warps, stages (docs/log.md: what was tried). Heads of 112 take at most 80 KB of shared memory so, and 99 KB
# is what a GeForce has
SUMS, READ = (64, 4, 2), (64, 4, 1)
EXACT_SUMS = EXACT_READ = (32, 8, 1)


@triton.jit
def _inverse_rms(qkv_ptr, out_ptr, width, stride, eps, BLOCK: tl.constexpr):
    """1 / sqrt(mean(q^2) + eps) of each row, and the same of k: [B * N, 2]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    for which in tl.static_range(2):
        x = tl.load(qkv_ptr + row * stride + which * width + columns, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + row * 2 + which, 1 / tl.sqrt(tl.sum(x * x, 0) / width + eps))


@triton.jit
def _features(x_ptr, rms_ptr, w, cos_ptr, sin_ptr, row, token, dims, mask, stride, HEAD: tl.constexpr,
              N: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """relu(norm(x)) and its rotation, [N, D] float32, zero where masked; one load, taken apart and joined in registers."""
    x = tl.load(x_ptr + row[:, None] * stride + dims[None, :], mask=mask, other=0.0).to(tl.float32)
    f = tl.maximum(x * tl.load(rms_ptr + row * 2)[:, None] * w[None, :], 0.0)
    pairs = tl.arange(0, D // 2)
    place = token[:, None] * (HEAD // 2) + pairs[None, :]
    mask = (token >= 0)[:, None] & (pairs < HEAD // 2)[None, :]
    cos = tl.load(cos_ptr + place, mask=mask, other=0.0)
    sin = tl.load(sin_ptr + place, mask=mask, other=0.0)
    even, odd = tl.split(tl.reshape(f, (N, D // 2, 2)))
    return f, tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (N, D))


@triton.jit
def _key_value_sum(
    qkv_ptr, rms_ptr, w_ptr, cos_ptr, sin_ptr, vk_ptr, ksum_ptr, tokens, heads, per_split, stride,
    HEAD: tl.constexpr, N: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    split, head, clip = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    dims = tl.arange(0, D)
    dim_mask = dims < HEAD
    w = tl.load(w_ptr + head * HEAD + dims, mask=dim_mask, other=0.0).to(tl.float32)
    k_ptr = qkv_ptr + (heads + head) * HEAD
    v_ptr = qkv_ptr + (2 * heads + head) * HEAD
    vk = tl.zeros((D, D), tl.float32)
    ksum = tl.zeros((D,), tl.float32)
    end = tl.minimum((split + 1) * per_split, tokens)
    for begin in range(split * per_split, end, N):
        n = begin + tl.arange(0, N)
        token = tl.where(n < end, n, -1)
        row = clip * tokens + tl.maximum(token, 0)
        mask = (token >= 0)[:, None] & dim_mask[None, :]
        k, turned = _features(
            k_ptr, rms_ptr + 1, w, cos_ptr, sin_ptr, row, token, dims, mask, stride, HEAD, N, D
        )
        v = tl.load(v_ptr + row[:, None] * stride + dims[None, :], mask=mask, other=0.0)
        ksum += tl.sum(k, 0)
        if EXACT:
            vk = tl.dot(tl.trans(v), turned, vk, input_precision="ieee")
        else:
            vk = tl.dot(tl.trans(v), turned.to(v.dtype), vk)
    part = (split * tl.num_programs(2) + clip) * heads + head
    square = dim_mask[:, None] & dim_mask[None, :]
    tl.store(vk_ptr + part * HEAD * HEAD + dims[:, None] * HEAD + dims[None, :], vk, mask=square)
    tl.store(ksum_ptr + part * HEAD + dims, ksum, mask=dim_mask)


@triton.jit
def _read(
    qkv_ptr, rms_ptr, w_ptr, cos_ptr, sin_ptr, vk_ptr, ksum_ptr, out_ptr, tokens, heads, per_program, stride, eps,
    HEAD: tl.constexpr, N: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    part, head, clip = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    dims = tl.arange(0, D)
    dim_mask = dims < HEAD
    w = tl.load(w_ptr + head * HEAD + dims, mask=dim_mask, other=0.0).to(tl.float32)
    sums = clip * heads + head
    ksum = tl.load(ksum_ptr + sums * HEAD + dims, mask=dim_mask, other=0.0)
    # [key dimension, value dimension]: the sum, transposed as it is read
    square = dim_mask[:, None] & dim_mask[None, :]
    vk = tl.load(vk_ptr + sums * HEAD * HEAD + dims[None, :] * HEAD + dims[:, None], mask=square, other=0.0)
    # two halves keep what bf16 alone would drop
    high = vk.to(qkv_ptr.dtype.element_ty)
    low = (vk - high.to(tl.float32)).to(high.dtype)
    end = tl.minimum((part + 1) * per_program, tokens)
    for begin in range(part * per_program, end, N):
        n = begin + tl.arange(0, N)
        token = tl.where(n < end, n, -1)
        row = clip * tokens + tl.maximum(token, 0)
        mask = (token >= 0)[:, None] & dim_mask[None, :]
        q, turned = _features(
            qkv_ptr + head * HEAD, rms_ptr, w, cos_ptr, sin_ptr, row, token, dims, mask, stride, HEAD, N, D
        )
        below = tl.sum(q * ksum[None, :], 1) + eps
        if EXACT:
            above = tl.dot(turned, vk, input_precision="ieee")
        else:
            above = tl.dot(turned.to(high.dtype), low, tl.dot(turned.to(high.dtype), high))
        out = above / below[:, None]
        place = out_ptr + row[:, None] * (heads * HEAD) + head * HEAD + dims[None, :]
        tl.store(place, out.to(out_ptr.dtype.element_ty), mask=mask)


def linear_self_attention(
    qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rotary: tuple[Tensor, Tensor], past: KeyValueSum | None,
    heads: int, norm_eps: float, eps: float,
) -> tuple[Tensor, KeyValueSum]:  # fmt: skip
    """As in reference.py; float32 products are exact, others multiply in the dtype of qkv and sum in float32."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    qkv, head, exact = qkv.contiguous(), width // heads, qkv.dtype == torch.float32
    cos, sin, q_weight, k_weight = (part.contiguous() for part in (*rotary, q_weight, k_weight))
    rms = torch.empty(batch * tokens, 2, device=qkv.device, dtype=torch.float32)
    _inverse_rms[(batch * tokens,)](
        qkv, rms, width, 3 * width, norm_eps, BLOCK=triton.next_power_of_2(width), num_warps=8 if width > 2048 else 4
    )  # fmt: skip
    d = max(16, triton.next_power_of_2(head))
    sums, read = (EXACT_SUMS, EXACT_READ) if exact else (SUMS, READ)
    splits = triton.cdiv(tokens, SPLIT_TOKENS)
    vk = torch.empty(splits, batch, heads, head, head, device=qkv.device, dtype=torch.float32)
    ksum = torch.empty(splits, batch, heads, head, device=qkv.device, dtype=torch.float32)
    common = {"HEAD": head, "D": d, "EXACT": exact}
    _key_value_sum[(splits, heads, batch)](
        qkv, rms, k_weight, cos, sin, vk, ksum, tokens, heads, SPLIT_TOKENS, 3 * width,
        N=sums[0], num_warps=sums[1], num_stages=sums[2], **common,
    )  # fmt: skip
    own = KeyValueSum(vk.sum(0), ksum.sum(0))
    total = own if past is None else past + own
    out = torch.empty(batch, tokens, width, device=qkv.device, dtype=qkv.dtype)
    _read[(splits, heads, batch)](
        qkv, rms, q_weight, cos, sin, total.vk.contiguous(), total.ksum.contiguous(), out,
        tokens, heads, SPLIT_TOKENS, 3 * width, eps,
        N=read[0], num_warps=read[1], num_stages=read[2], **common,
    )  # fmt: skip
    return out, own
