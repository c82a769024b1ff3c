"""The blocks of layers.py on the fused kernels, with fewer passes over memory.

Read layers.py first: this file computes the same, and tests compare the two. Tokens stay rows [B, N, D]
throughout: a 1x1 convolution is a GEMM of these rows, the temporal convolution three GEMMs of shifted rows.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from . import ops
from .gemm import Gemm, Rows
from .layers import (
    ATTENTION_EPS,
    LAYER_NORM_EPS,
    SELF_NORM_EPS,
    Block,
    BlockContext,
    FinalLayer,
    MixFeedForward,
    SelfAttention,
    TextKeys,
)
from .memory import BlockSums, Contribution

ROWS_AT_ONCE = 2**15  # tokens at a time in the widest part of the feed-forward; more only need more memory


def fused_patches(embedder: nn.Module, latents: Tensor, gemm: Gemm[Rows]) -> Tensor:
    """PatchEmbedder.forward as a GEMM: [B, C, F, H, W] -> [B, N, D]."""
    with gemm.weights_of(cast(nn.Module, embedder.proj), latents) as (weight, bias):
        patch = weight.shape[-1]
        split = latents.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))  # [B, C, F, H, p, W, p]
        rows = split.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        return F.linear(rows, weight.flatten(1), bias)


def fused_final(layer: FinalLayer, x: Tensor, time: Tensor, frames: int) -> Tensor:
    """FinalLayer.forward, whose `frames` isn't needed here."""
    shift, scale = (layer.scale_shift_table.to(time) + time.unsqueeze(2)).unbind(2)  # each [B, 1 or F, D]
    return layer.linear(ops.residual_norm(x, None, None, shift, scale, LAYER_NORM_EPS)[1])


def fused_block(
    block: Block, x: Tensor, modulation: Tensor, text: TextKeys, text_bias: Tensor | None,
    context: BlockContext, memory: BlockSums | None, gemm: Gemm[Rows],
) -> tuple[Tensor, Contribution]:  # fmt: skip
    """Block.forward: x [B, N, D], modulation [B, 1 or F, 6, D] -> x, and this chunk's contribution."""
    rows = (block.scale_shift_table.to(modulation) + modulation).unbind(2)  # each [B, 1 or F, D]
    shift1, scale1, gate1, shift2, scale2, gate2 = rows
    past, tail = (None, None) if memory is None else (memory.past, memory.tail)

    _, h = gemm.residual_norm(x, None, None, shift1, scale1, LAYER_NORM_EPS)
    attended, sums = _attention(block.attn, h, x, context, past, gemm)
    x, h = gemm.residual(x, attended, gate1)
    del attended  # activations are what fills the memory on large clips
    cross = block.cross_attn
    queries = gemm.linear(cross.q_linear, h)
    del h
    h = cross.attend(queries, text, text_bias)
    del queries
    x, h, bias = gemm.linear_norm(x, cross.proj, h, shift2, scale2, LAYER_NORM_EPS)  # may overwrite x
    x, tail = _feed_forward(block.mlp, h, x, bias, gate2, context, tail, gemm)
    return x, Contribution(sums, tail)


def _attention(
    attn: SelfAttention,
    h: Rows,
    like: Tensor,
    context: BlockContext,
    past: ops.KeyValueSum | None,
    gemm: Gemm[Rows],
) -> tuple[Tensor, ops.KeyValueSum]:
    """Rows h [B, N, D] -> the self-attention's output [B, N, D], and this call's sums."""
    qkv, heads = gemm.linear(attn.qkv, h), like.shape[-1] // attn.head_dim
    with gemm.weights_of(attn.k_norm, like) as (weight, _):
        sums = ops.key_value_sum(qkv, weight, context.rotary, heads, SELF_NORM_EPS)
    total = sums if past is None else past + sums
    with gemm.weights_of(attn.q_norm, like) as (weight, _):
        queries = ops.query_rows(qkv, weight, context.rotary, total.ksum, heads, SELF_NORM_EPS, ATTENTION_EPS)
    del qkv
    return gemm.projected(attn.proj, queries, total), sums


def _feed_forward(
    layer: MixFeedForward, h: Rows, x: Tensor, bias: Tensor | None, gate: Tensor, context: BlockContext,
    tail: Tensor | None, gemm: Gemm[Rows],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x + bias + gate * feed-forward(h), and the last latent frame before the temporal convolution."""
    padded = _within_frames(layer, h, x, context, tail, gemm)
    area = context.grid.area
    u = padded.flatten(1, 2)[:, area:-area]  # a view without the neighbours
    with gemm.weights_of(layer.t_conv, x) as (weight, _):
        mixed = gemm.three_taps(padded, weight)
    return ops.gated_residual(x, u, gate, mixed, bias), padded[:, -2:-1].permute(0, 3, 1, 2)


def _within_frames(
    layer: MixFeedForward, h: Rows, like: Tensor, context: BlockContext, tail: Tensor | None,
    gemm: Gemm[Rows],
) -> Tensor:  # fmt: skip
    """The spatial part on rows h [B, N, D], between the neighbours in time: [B, F + 2, S, D]."""
    frames, area = context.frames, context.grid.area
    padded = like.new_empty(len(like), frames + 2, area, like.shape[2])
    padded[:, 0] = 0 if tail is None else tail[:, :, 0].transpose(1, 2)
    padded[:, -1] = 0
    step = max(1, ROWS_AT_ONCE // area) * area
    with (
        gemm.weights_of(layer.inverted_conv.conv, like) as (up, up_bias),
        gemm.weights_of(layer.depth_conv.conv, like) as (depth, depth_bias),
        gemm.weights_of(layer.point_conv.conv, like) as (down, _),
    ):
        assert up_bias is not None and depth_bias is not None  # noqa: PT018  the original has them
        up, down = gemm.weight(up.flatten(1)), gemm.weight(down.flatten(1))

        def hidden(part: Rows) -> Tensor:
            wide = gemm.matmul(part, up).unflatten(0, (-1, area))
            return ops.gated_depthwise(wide, up_bias, depth, depth_bias, *context.grid).flatten(0, 1)

        for clip, target in enumerate(padded[:, 1:-1]):
            outs = target.flatten(0, 1).split(step)
            for part, out in zip(gemm.pieces(h, clip, step), outs, strict=True):
                gemm.matmul(hidden(part), down, out=out)
    return padded
