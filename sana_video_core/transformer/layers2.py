"""The blocks of SANA-Video 2.0. Parameter names are the original's: LoRAs and checkpoints rely on them.

B batch, F latent frames, N tokens, D width, A heads, d head size, T timesteps (1, F or N), L text tokens.
No block adds to its input: its two changes go to `Sources`, from which every later input is mixed. Source:
diffusion/model/nets of the original, main after its pull request 471 (no ReLU, no normaliser).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Sana2Config
from ..shapes import LatentGrid
from .gemm import WeightsOf
from .layers import (
    LAYER_NORM_EPS,
    SELF_NORM_EPS,
    CrossAttention,
    TextKeys,
    merge_heads,
    modulate,
    per_frame,
    split_heads,
)
from .ops import Source, rotate

RESIDUAL_EPS = 1e-6  # of the norm that logits of sources are made of
ATTENTION, FEED_FORWARD, FINAL = range(3)  # who mixes the sources, each by a vector of its own


class BlockContext2(NamedTuple):
    """What all blocks of one call share."""

    frames: int
    grid: LatentGrid  # token rows and columns
    linear_rotary: tuple[Tensor, Tensor]  # cosines and sines [N, d / 2] of the linear layers
    softmax_rotary: tuple[Tensor, Tensor]  # of the softmax layers, whose heads are larger


class Sources(NamedTuple):
    """The attention residuals of one call, as a value. Kept are three logits a token, and no keys."""

    vectors: Tensor  # [3, D] float32, which score sources
    closed: tuple[Source, ...]  # the tokens, and groups that are complete
    begun: Source | None  # the sum of this group so far

    @classmethod
    def of(cls, tokens: Tensor, vectors: Tensor) -> Sources:
        return cls(vectors, (scored(tokens, vectors),), None)

    @property
    def every(self) -> tuple[Source, ...]:
        return self.closed if self.begun is None else (*self.closed, self.begun)

    def mixed(self, reader: int) -> Tensor:
        """The input [B, N, D] of `reader`."""
        return mix(self.every, reader)

    def plus(self, change: Tensor) -> Sources:
        """With a block's change [B, N, D] added to its group."""
        total = change if self.begun is None else self.begun.values + change
        return self._replace(begun=scored(total, self.vectors))

    def group_closed(self) -> Sources:
        return self._replace(closed=self.every, begun=None)


def scored(values: Tensor, vectors: Tensor) -> Source:
    """A source with its logits: the products of its normalised rows with the vectors [3, D]."""
    rows = values.to(torch.float32)
    scale = torch.rsqrt(rows.square().mean(-1, keepdim=True) + RESIDUAL_EPS)
    return Source(values, F.linear(rows, vectors) * scale)


def mix(sources: Sequence[Source], reader: int) -> Tensor:
    """The mean of sources [B, N, D], weighted token by token by the softmax of their logits."""
    if len(sources) == 1:
        return sources[0].values
    weights = torch.stack([source.logits[..., reader] for source in sources]).softmax(0)
    total = sum(weight[..., None] * source.values for weight, source in zip(weights, sources, strict=True))
    return torch.as_tensor(total).to(sources[0].values.dtype)


class ResidualVectors(nn.Module):
    """The vectors that score sources, one for each reader and all layers."""

    def __init__(self, config: Sana2Config, ops: Any, **place: Any) -> None:
        super().__init__()
        self.attn_proj = ops.Linear(config.width, 1, bias=False, **place)
        self.mlp_proj = ops.Linear(config.width, 1, bias=False, **place)
        self.final_proj = ops.Linear(config.width, 1, bias=False, **place)

    def vectors(self, weights_of: WeightsOf, like: Tensor) -> Tensor:
        """All three [3, D] in float32, as a host casts and patches them for `like`."""
        rows: list[Tensor] = []
        for layer in (self.attn_proj, self.mlp_proj, self.final_proj):
            with weights_of(layer, like) as (weight, _):
                rows.append(weight.to(torch.float32))
        return torch.cat(rows)


class GatedAttention(nn.Module):
    """What both kinds of self-attention share: queries, keys and values, and the gate of the output."""

    def __init__(self, config: Sana2Config, head_dim: int, ops: Any, **place: Any) -> None:
        super().__init__()
        width = config.width
        self.head_dim = head_dim
        self.qkv = ops.Linear(width, 3 * width, bias=False, **place)
        self.q_norm = ops.RMSNorm(width, eps=SELF_NORM_EPS, **place)
        self.k_norm = ops.RMSNorm(width, eps=SELF_NORM_EPS, **place)
        self.output_gate = ops.Linear(width, width, **place)
        self.proj = ops.Linear(width, width, **place)

    def forward(self, x: Tensor, context: BlockContext2) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        return self.proj(self.attend(x, context) * self.output_gate(x).sigmoid())

    def attend(self, x: Tensor, context: BlockContext2) -> Tensor:
        """What is read from all tokens, before the gate: [B, N, D]."""
        raise NotImplementedError

    def _turned(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys with their positions, and values, each [B, A, N, d]."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (split_heads(y, self.head_dim) for y in (self.q_norm(q), self.k_norm(k), v))
        return rotate(q, rotary), rotate(k, rotary), v


class LinearAttention(GatedAttention):
    """Linear attention without features or denominator; a norm of each head stands in for that."""

    def __init__(self, config: Sana2Config, ops: Any, **place: Any) -> None:
        super().__init__(config, config.head_dim, ops, **place)
        self.beta_proj = ops.Linear(config.width, config.heads, **place)
        self.o_norm = ops.RMSNorm(config.head_dim, eps=SELF_NORM_EPS, **place)

    def attend(self, x: Tensor, context: BlockContext2) -> Tensor:
        q, k, v = self._turned(x, context.linear_rotary)
        strength = self.beta_proj(x).sigmoid().transpose(1, 2).unsqueeze(-1)  # [B, A, N, 1]
        # outputs grow with the clip: float32 until the norm has made them small
        q, k, v = (y.to(torch.float32) for y in (q, k * strength, v))
        out = q @ (v.mT @ k).mT
        return merge_heads(self.o_norm(out.to(x.dtype)))


class SoftmaxAttention(GatedAttention):
    """Softmax attention over all tokens of the clip."""

    def __init__(self, config: Sana2Config, ops: Any, **place: Any) -> None:
        super().__init__(config, config.softmax_head_dim, ops, **place)

    def attend(self, x: Tensor, context: BlockContext2) -> Tensor:
        q, k, v = self._turned(x, context.softmax_rotary)
        return merge_heads(F.scaled_dot_product_attention(q, k, v))


class SwiGLU(nn.Module):
    """The feed-forward: no convolution, so tokens do not meet."""

    def __init__(self, config: Sana2Config, ops: Any, **place: Any) -> None:
        super().__init__()
        self.gate_proj = ops.Linear(config.width, config.ffn_hidden, **place)
        self.up_proj = ops.Linear(config.width, config.ffn_hidden, **place)
        self.down_proj = ops.Linear(config.ffn_hidden, config.width, **place)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, D] -> [B, N, D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block2(nn.Module):
    """Self-attention, cross-attention and feed-forward; the timestep modulates the first and the last."""

    def __init__(self, config: Sana2Config, layer: int, ops: Any, **place: Any) -> None:
        super().__init__()
        norm = {"elementwise_affine": False, "eps": LAYER_NORM_EPS, **place}
        attention = SoftmaxAttention if config.is_softmax(layer) else LinearAttention
        self.norm1 = ops.LayerNorm(config.width, **norm)
        self.attn = attention(config, ops, **place)
        self.cross_attn = CrossAttention(config, ops, **place)
        self.norm2 = ops.LayerNorm(config.width, **norm)
        self.mlp = SwiGLU(config, ops, **place)
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.width, **place))

    def forward(
        self,
        sources: Sources,
        modulation: Tensor,
        text: TextKeys,
        text_bias: Tensor | None,
        context: BlockContext2,
    ) -> Sources:
        """Sources with both changes of this block; modulation [B, T, 6, D]."""
        rows = (self.scale_shift_table.to(modulation) + modulation).unsqueeze(2).unbind(3)
        sources = sources.plus(
            self.attention_change(sources.mixed(ATTENTION), rows[:3], text, text_bias, context)
        )
        return sources.plus(self.feed_forward_change(sources.mixed(FEED_FORWARD), rows[3:]))

    def attention_change(
        self,
        x: Tensor,
        rows: Sequence[Tensor],
        text: TextKeys,
        text_bias: Tensor | None,
        context: BlockContext2,
    ) -> Tensor:
        """What both attentions make of x [B, N, D]: [B, N, D]. Rows are shift, scale, gate [B, T, 1, D]."""
        shift, scale, gate = rows
        steps = gate.shape[1]
        attended = self.attn(modulate(self.norm1(x), shift, scale, steps), context)
        attended = per_frame(attended, gate, steps)
        return attended + self.cross_attn(x + attended, text, text_bias)

    def feed_forward_change(self, x: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """What the feed-forward makes of x [B, N, D]: [B, N, D]. Rows are shift, scale, gate [B, T, 1, D]."""
        shift, scale, gate = rows
        steps = gate.shape[1]
        return per_frame(self.mlp(modulate(self.norm2(x), shift, scale, steps)), gate, steps)
