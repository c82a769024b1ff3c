"""One program for each token: its row stays in registers between the residual and the norm."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _residual_norm(
    x_ptr, branch_ptr, extra_ptr, gate_ptr, shift_ptr, scale_ptr, out_ptr, h_ptr,
    tokens, group, groups, width, branch_clip, gate_row, shift_row, scale_row, eps,
    HAS_BRANCH: tl.constexpr, HAS_EXTRA: tl.constexpr, HAS_GATE: tl.constexpr, HAS_NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # of B * N
    clip, token = row // tokens, row % tokens
    modulation = clip * groups + token // group
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=mask, other=0.0).to(tl.float32)
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
    if HAS_NORM:
        mean = tl.sum(x, 0) / width
        centred = tl.where(mask, x - mean, 0.0)
        variance = tl.sum(centred * centred, 0) / width
        h = centred * (1 / tl.sqrt(variance + eps))
        scale = tl.load(scale_ptr + modulation * scale_row + columns, mask=mask, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + modulation * shift_row + columns, mask=mask, other=0.0).to(tl.float32)
        h = h * (1 + scale) + shift
        tl.store(h_ptr + row * width + columns, h.to(h_ptr.dtype.element_ty), mask=mask)


def residual_norm(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As in reference.py. The norm sees x' before it is rounded to x's dtype."""
    return _launch(x, branch, gate, shift, scale, eps)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor | None, extra: Tensor | None = None) -> Tensor:
    """As in reference.py."""
    return _launch(x, branch, gate, None, None, 0.0, extra)[0]


def _launch(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor | None, scale: Tensor | None, eps: float,
    extra: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, tokens, width = x.shape
    x = x.contiguous()
    has_branch = branch is not None
    out = torch.empty_like(x) if has_branch else x
    h = out if shift is None else torch.empty_like(x)
    branch = x if branch is None else branch
    # its clips may lie apart, as frames between neighbours do
    if branch.stride(2) != 1 or branch.stride(1) != width:
        branch = branch.contiguous()
    tables = [_rows(table, x) for table in (gate, shift, scale)]
    gate, shift, scale = (table if table is not None else x for table in tables)
    groups = next((table.shape[1] for table in tables if table is not None), 1)
    block = triton.next_power_of_2(width)
    _residual_norm[(batch * tokens,)](
        x, branch, x if extra is None else extra.contiguous(), gate, shift, scale, out, h,
        tokens, tokens // groups, groups, width, branch.stride(0), gate.stride(1), shift.stride(1), scale.stride(1), eps,
        HAS_BRANCH=has_branch, HAS_EXTRA=extra is not None, HAS_GATE=tables[0] is not None, HAS_NORM=tables[1] is not None, BLOCK=block,
        num_warps=8 if block > 2048 else 4,
    )  # fmt: skip
    return out, h


def _rows(table: Tensor | None, x: Tensor) -> Tensor | None:
    """[B, G, D] so that clip and group are one index: rows at an even distance, columns beside each other."""
    if table is None:
        return None
    table = table.expand(len(x), -1, -1)
    even = table.stride(2) == 1 and (len(x) == 1 or table.stride(0) == table.stride(1) * table.shape[1])
    return table if even else table.contiguous()
