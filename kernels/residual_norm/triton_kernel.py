"""One program per token: its row stays in registers between the residual and the norm."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fp8_gemm.reference import FP8, LARGEST, LEAST_SCALE, Fp8Rows
from ..fp8_gemm.triton_kernel import row_scale

WARPS = 4  # of a row: eight wait longer for their sums (docs/log.md)


# chunks of a stream have different numbers of tokens and frames
@triton.jit(do_not_specialize=["tokens", "group", "groups"])
def _residual_norm(
    x_ptr, bias_ptr, branch_ptr, extra_ptr, gate_ptr, shift_ptr, scale_ptr, out_ptr, h_ptr, row_scale_ptr,
    tokens, group, groups, width, branch_clip, gate_row, shift_row, scale_row, eps,
    HAS_BIAS: tl.constexpr, HAS_BRANCH: tl.constexpr, HAS_EXTRA: tl.constexpr, HAS_GATE: tl.constexpr,
    HAS_NORM: tl.constexpr, ROW_SCALES: tl.constexpr, BLOCK: tl.constexpr, LARGEST: tl.constexpr,
    LEAST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # of B * N
    clip, token = row // tokens, row % tokens
    modulation = clip * groups + token // group
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    if HAS_BRANCH:
        branch = tl.load(branch_ptr + clip * branch_clip + token * width + columns, mask=mask, other=0.0).to(
            tl.float32
        )
        if HAS_EXTRA:
            branch += tl.load(extra_ptr + row * width + columns, mask=mask, other=0.0).to(tl.float32)
        if HAS_GATE:
            branch *= tl.load(gate_ptr + modulation * gate_row + columns, mask=mask, other=0.0).to(tl.float32)
        x += branch
        tl.store(out_ptr + row * width + columns, x.to(out_ptr.dtype.element_ty), mask=mask)
    h = x
    if HAS_NORM:
        mean = tl.sum(x, 0) / width
        centered = tl.where(mask, x - mean, 0.0)
        variance = tl.sum(centered * centered, 0) / width
        scale = tl.load(scale_ptr + modulation * scale_row + columns, mask=mask, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + modulation * shift_row + columns, mask=mask, other=0.0).to(tl.float32)
        h = centered * (1 / tl.sqrt(variance + eps)) * (1 + scale) + shift  # 0 outside of the mask, as loaded
    if ROW_SCALES:
        factor = row_scale(tl.max(tl.abs(h), 0), LARGEST, LEAST)
        h *= 1 / factor
        tl.store(row_scale_ptr + row, factor)
    if HAS_NORM or ROW_SCALES:
        tl.store(h_ptr + row * width + columns, h.to(h_ptr.dtype.element_ty), mask=mask)


def residual_norm(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As in reference.py. The norm sees x' before it is rounded to x's dtype."""
    return _launch(x, branch, gate, shift, scale, eps, bias=bias, h_dtype=x.dtype)[:2]


def gated_residual(
    x: Tensor, branch: Tensor, gate: Tensor | None, extra: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """As in reference.py."""
    return _launch(x, branch, gate, extra=extra, bias=bias)[0]


def residual_norm_fp8(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Fp8Rows]:
    """As in reference.py; h is not rounded to x's dtype in between."""
    x, *h = _launch(x, branch, gate, shift, scale, eps, h_dtype=FP8)
    return x, Fp8Rows(*h)


def gated_residual_fp8(x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Fp8Rows]:
    """As in reference.py; x' is rounded to 8 bits before it is rounded to x's dtype."""
    x, *rows = _launch(x, branch, gate, h_dtype=FP8)
    return x, Fp8Rows(*rows)


def _launch(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor | None = None,
    scale: Tensor | None = None, eps: float = 0.0, *, extra: Tensor | None = None, bias: Tensor | None = None,
    h_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """x'; h in h_dtype; the scales of its rows if that is FP8.

    Without shift and scale there is no norm, and h is x'.
    """
    batch, tokens, width = x.shape
    x = x.contiguous()
    out = x if branch is None else torch.empty_like(x)
    h = out if h_dtype is None else torch.empty(x.shape, device=x.device, dtype=h_dtype)
    row_scales = torch.empty(batch, tokens, 1, device=x.device) if h_dtype == FP8 else out
    flags = {
        "HAS_BIAS": bias is not None, "HAS_BRANCH": branch is not None, "HAS_EXTRA": extra is not None,
        "HAS_GATE": gate is not None, "HAS_NORM": shift is not None, "ROW_SCALES": h_dtype == FP8,
    }  # fmt: skip
    branch = x if branch is None else branch.expand_as(x)
    # its clips may have gaps between them, as frames between neighbours do
    if branch.stride(2) != 1 or branch.stride(1) != width:
        branch = branch.contiguous()
    groups = max((table.shape[1] for table in (gate, shift, scale) if table is not None), default=1)
    if tokens % groups:
        raise ValueError(f"{tokens} tokens cannot be modulated in {groups} groups of one size.")
    gate, shift, scale = (
        x if table is None else grouped_rows(table, x, groups) for table in (gate, shift, scale)
    )
    bias = x if bias is None else bias.contiguous()  # never read where there is none
    extra = x if extra is None else extra.expand_as(x).contiguous()
    block = triton.next_power_of_2(width)
    _residual_norm[(batch * tokens,)](
        x, bias, branch, extra, gate, shift, scale, out, h, row_scales,
        tokens, tokens // groups, groups, width,
        branch.stride(0), gate.stride(1), shift.stride(1), scale.stride(1), eps,
        **flags, BLOCK=block, LARGEST=LARGEST, LEAST=LEAST_SCALE, num_warps=WARPS,
    )  # fmt: skip
    return out, h, row_scales


def grouped_rows(table: Tensor, x: Tensor, groups: int) -> Tensor:
    """[B, G, D] so that clip and group are one index: rows evenly spaced, columns contiguous."""
    table = table.expand(len(x), groups, -1)
    even = table.stride(2) == 1 and (len(x) == 1 or table.stride(0) == table.stride(1) * groups)
    return table if even else table.contiguous()
