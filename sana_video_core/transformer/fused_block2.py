"""The blocks of layers2.py on the fused kernels, with fewer passes over memory.

Read layers2.py first: this file computes the same, and tests compare the two. A sum that blocks share is
brought up to date where the next mix reads it anyway, so a block hands on what its feed-forward adds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import ops
from .gemm import Gemm, Rows
from .layers import LAYER_NORM_EPS, SELF_NORM_EPS, FinalLayer, TextKeys, merge_heads, split_heads
from .layers2 import (
    ATTENTION,
    FEED_FORWARD,
    FINAL,
    RESIDUAL_EPS,
    Block2,
    BlockContext2,
    GatedAttention,
    LinearAttention,
    Sources,
    SwiGLU,
    scored,
)
from .ops import Source

ROWS_AT_ONCE = 2**13  # tokens at a time in the feed-forward, which is four times as wide: 0.5 GB


class Pending(NamedTuple):
    """Sources whose newest sum still lacks gate * branch: the next mix adds it, as it reads that sum."""

    vectors: Tensor  # [3, D] float32
    closed: tuple[Source, ...]
    newest: Tensor  # [B, N, D]
    branch: Tensor | None  # [B, N, D]
    gate: Tensor | None  # [B, T, D]
    whole: bool  # the newest sum is that of a complete group, and the next one begins

    @classmethod
    def of(cls, sources: Sources | Pending) -> Pending:
        if isinstance(sources, Pending):
            return sources
        vectors, every, whole = sources.vectors, sources.every, sources.begun is None
        return cls(vectors, every[:-1], every[-1].values, None, None, whole)

    def group_closed(self) -> Pending:
        return self._replace(whole=True)

    def settled(self) -> Sources:
        """The same with everything added, as layers2.py takes it."""
        newest = self.newest
        if self.branch is not None:
            newest = ops.gated_residual(newest, self.branch, self.gate)
        sources = Sources(self.vectors, self.closed, scored(newest, self.vectors))
        return sources.group_closed() if self.whole else sources

    def mixed(
        self, reader: int, shift: Tensor, scale: Tensor, gemm: Gemm[Rows] | None, want_mix: bool = False
    ) -> ops.Mixed:
        """The newest sum, the mix for `reader`, and its norm, modulated by tables [B, T, D].

        The norm is as a `gemm` takes it; without one, a tensor.
        """
        parts = self.newest, self.branch, self.gate, None, self.closed, self.vectors, reader
        mixing = ops.residual_mix if gemm is None else gemm.residual_mix
        options = {"want_logits": self.whole and reader != FINAL, "want_mix": want_mix}
        return mixing(*parts, shift, scale, LAYER_NORM_EPS, RESIDUAL_EPS, **options)


def plain_block2(block: Block2, sources: Sources | Pending, *rest: Any) -> Sources:
    """A block as layers2.py writes it, between fused ones."""
    return block(sources.settled() if isinstance(sources, Pending) else sources, *rest)


def plain_final2(layer: FinalLayer, sources: Sources | Pending, time: Tensor, frames: int) -> Tensor:
    """The last mix and layer behind plain blocks, or fused ones."""
    sources = sources.settled() if isinstance(sources, Pending) else sources
    return layer(sources.mixed(FINAL), time, frames)


def fused_block2(
    block: Block2, sources: Sources | Pending, modulation: Tensor, text: TextKeys, text_bias: Tensor | None,
    context: BlockContext2, gemm: Gemm[Rows],
) -> Pending:  # fmt: skip
    """Block2.forward: modulation [B, T, 6, D]."""
    rows = (block.scale_shift_table.to(modulation) + modulation).unbind(2)  # each [B, T, D]
    shift1, scale1, gate1, shift2, scale2, gate2 = rows
    pending, attn, cross = Pending.of(sources), block.attn, block.cross_attn
    vectors, begins = pending.vectors, pending.whole
    del sources  # activations are what fills the memory on large clips

    # the strength of keys is made in full precision
    exact = None if isinstance(attn, LinearAttention) else gemm
    h: Any  # rows, or a tensor
    newest, logits, mix, h = pending.mixed(ATTENTION, shift1, scale1, exact, want_mix=True)
    closed = pending.closed if logits is None else (*pending.closed, Source(newest, logits))
    del pending
    attended = _attention(attn, h, context, gemm)
    del h
    assert mix is not None
    h = gemm.residual(mix, attended, gate1)[1]
    del mix
    queries = gemm.linear(cross.q_linear, h)
    del h
    h = cross.attend(queries, text, text_bias)
    del queries
    read = gemm.linear(cross.proj, h)
    del h
    parts = (read, attended, gate1, None) if begins else (newest, attended, gate1, read)
    del newest, read, attended
    table = shift2, scale2, LAYER_NORM_EPS, RESIDUAL_EPS
    newest, _, _, h = gemm.residual_mix(*parts, closed, vectors, FEED_FORWARD, *table)
    del parts
    branch = _feed_forward(block.mlp, h, newest, gemm)
    return Pending(vectors, closed, newest, branch, gate2, whole=False)


def fused_final2(layer: FinalLayer, sources: Sources | Pending, time: Tensor, frames: int) -> Tensor:
    """The last mix and FinalLayer.forward, whose `frames` isn't needed here: [B, N, channels]."""
    shift, scale = (layer.scale_shift_table.to(time) + time.unsqueeze(2)).unbind(2)  # each [B, T, D]
    return layer.linear(Pending.of(sources).mixed(FINAL, shift, scale, None).h)


def _attention(attn: GatedAttention, h: Any, context: BlockContext2, gemm: Gemm[Rows]) -> Tensor:
    """Rows h [B, N, D], or a tensor where the layer is linear -> its output [B, N, D]."""
    strength = None
    if isinstance(attn, LinearAttention):
        strength = attn.beta_proj(h)
        h = gemm.rows(h)
    gate, qkv = gemm.linear(attn.output_gate, h), gemm.linear(attn.qkv, h)
    del h
    heads = gate.shape[-1] // attn.head_dim
    rotary = context.softmax_rotary if strength is None else context.linear_rotary
    with gemm.weights_of(attn.k_norm, gate) as (weight, _):
        keys = ops.rotated_rows(qkv, 1, weight, rotary, heads, SELF_NORM_EPS, strength)
    with gemm.weights_of(attn.q_norm, gate) as (weight, _):
        queries = ops.rotated_rows(qkv, 0, weight, rotary, heads, SELF_NORM_EPS)
    values = qkv.chunk(3, dim=-1)[2]
    if not isinstance(attn, LinearAttention):
        q, k, v = (split_heads(x, attn.head_dim) for x in (queries, keys, values))
        read = merge_heads(F.scaled_dot_product_attention(q, k, v))
        del q, k, v, queries, keys, values, qkv
        return gemm.linear(attn.proj, gemm.sigmoid_product(read, gate))
    total = ops.key_value_product(keys, values, heads)
    del keys, values, qkv
    with gemm.weights_of(attn.o_norm, gate) as (weight, _):
        read = ops.gated_heads(queries, total, weight, gate, SELF_NORM_EPS)
    del queries, gate
    return gemm.linear(attn.proj, read)


def _feed_forward(layer: SwiGLU, h: Rows, like: Tensor, gemm: Gemm[Rows]) -> Tensor:
    """down(silu(gate(h)) * up(h)) of rows h [B, N, D]: [B, N, D]."""
    out = torch.empty_like(like)
    with (
        gemm.weights_of(layer.gate_proj, like) as (gate, gate_bias),
        gemm.weights_of(layer.up_proj, like) as (up, up_bias),
        gemm.weights_of(layer.down_proj, like) as (down, down_bias),
    ):
        gate, up, down = gemm.weight(gate), gemm.weight(up), gemm.weight(down)

        def hidden(part: Rows) -> Rows:
            return gemm.silu_product(
                gemm.matmul(part, up, bias=up_bias), gemm.matmul(part, gate, bias=gate_bias)
            )

        for clip, target in enumerate(out):
            parts = gemm.pieces(h, clip, ROWS_AT_ONCE), target.split(ROWS_AT_ONCE)
            for part, piece in zip(*parts, strict=True):
                gemm.matmul(hidden(part), down, out=piece, bias=down_bias)
    return out
