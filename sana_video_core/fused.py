"""A block of the network in few passes over memory: what layers.py says, in the fused operations of kernels/.

Read layers.py first; this file computes the same and is held against it. Tokens stay rows [B, N, D] all the way: 1x1
convolutions are products with their rows, the temporal convolution three products with shifted rows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from .layers import (
    ATTENTION_EPS,
    LAYER_NORM_EPS,
    SELF_NORM_EPS,
    Block,
    BlockContext,
    MixFeedForward,
    TextKeys,
)
from .memory import BlockState, WindowBlockState

Weights = tuple[Tensor, Tensor | None]
# how a host hands out the weight and bias that a layer would compute with, cast and patched, while they are used
WeightsOf = Callable[[nn.Module, Tensor], AbstractContextManager[Weights]]

ROWS_AT_ONCE = 2**15  # tokens in the widest part of the feed-forward: more are not faster, and need memory


def own_weights(layer: nn.Module, like: Tensor) -> AbstractContextManager[Weights]:
    """Those of a plain torch layer."""
    bias = getattr(layer, "bias", None)
    return nullcontext((cast(Tensor, layer.weight), cast("Tensor | None", bias)))


def fused_block(
    block: Block, x: Tensor, modulation: Tensor, text: TextKeys, text_bias: Tensor | None, context: BlockContext,
    memory: BlockState | WindowBlockState | None, weights_of: WeightsOf,
) -> tuple[Tensor, ops.KeyValueSum, Tensor]:  # fmt: skip
    """As Block.forward: x [B, N, D], modulation [B, 1 or F, 6, D] -> x, this call's own sums, and its tail [B, D, 1, S]."""
    rows = (block.scale_shift_table.to(modulation) + modulation).unbind(2)  # each [B, 1 or F, D]
    shift1, scale1, gate1, shift2, scale2, gate2 = rows
    past, tail = (None, None) if memory is None else (memory.past, memory.tail)

    _, h = ops.residual_norm(x, None, None, shift1, scale1, LAYER_NORM_EPS)
    attn = block.attn
    qkv, heads = attn.qkv(h), x.shape[-1] // attn.head_dim
    with weights_of(attn.q_norm, x) as (q_weight, _), weights_of(attn.k_norm, x) as (k_weight, _):
        attended, own = ops.linear_self_attention(
            qkv, q_weight, k_weight, context.rotary, past, heads, SELF_NORM_EPS, ATTENTION_EPS
        )
    x = ops.gated_residual(x, attn.proj(attended), gate1)
    x, h = ops.residual_norm(x, block.cross_attn(x, text, text_bias), None, shift2, scale2, LAYER_NORM_EPS)
    x, last = _feed_forward(block.mlp, h, x, gate2, context, tail, weights_of)
    return x, own, last


def _feed_forward(
    layer: MixFeedForward, h: Tensor, x: Tensor, gate: Tensor, context: BlockContext, tail: Tensor | None,
    weights_of: WeightsOf,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x + gate * feed-forward(h), and the last latent frame before the temporal convolution."""
    padded = _within_frames(layer, h, context, tail, weights_of)
    area = context.grid.area
    u = padded.flatten(1, 2)[:, area:-area]  # the frames without their neighbours, where they lie
    with weights_of(layer.t_conv, h) as (weight, _):
        mixed = _three_taps(padded, weight)
    return ops.gated_residual(x, u, gate, extra=mixed), padded[:, -2:-1].permute(0, 3, 1, 2)


def _within_frames(
    layer: MixFeedForward, h: Tensor, context: BlockContext, tail: Tensor | None, weights_of: WeightsOf
) -> Tensor:
    """Rows h [B, N, D] through the part that looks at one latent frame, between their neighbours in time: [B, F+2, S, D]."""
    frames, area = context.frames, context.grid.area
    padded = h.new_empty(len(h), frames + 2, area, h.shape[2])
    padded[:, 0] = 0 if tail is None else tail[:, :, 0].transpose(1, 2)
    padded[:, -1] = 0
    step = max(1, ROWS_AT_ONCE // area) * area
    with (
        weights_of(layer.inverted_conv.conv, h) as (up, up_bias),
        weights_of(layer.depth_conv.conv, h) as (depth, depth_bias),
        weights_of(layer.point_conv.conv, h) as (down, _),
    ):
        assert up_bias is not None and depth_bias is not None  # noqa: PT018  the original has them
        for rows, target in zip(h, padded[:, 1:-1], strict=True):
            for part, out in zip(rows.split(step), target.flatten(0, 1).split(step), strict=True):
                wide = F.linear(part, up.flatten(1)).unflatten(0, (-1, area))
                hidden = ops.gated_depthwise(wide, up_bias, depth, depth_bias, *context.grid)
                torch.mm(hidden.flatten(0, 1), down.flatten(1).T, out=out)
    return padded


def _three_taps(padded: Tensor, weight: Tensor) -> Tensor:
    """The temporal convolution of padded [B, F+2, S, D] with weight [D, D, 3, 1] as products with shifted rows: [B, F*S, D]."""
    batch, frames, area, width = padded.shape
    taps = weight.flatten(2).permute(2, 0, 1).contiguous().mT  # [3, in, out]
    out = padded.new_empty(batch, (frames - 2) * area, width)
    for clip in range(batch):
        first, middle, last = (padded[clip, t : frames - 2 + t].view(-1, width) for t in range(3))
        torch.mm(first, taps[0], out=out[clip])
        out[clip].addmm_(middle, taps[1]).addmm_(last, taps[2])
    return out
