"""The blocks of the network. Parameter names are the original's: LoRAs and checkpoints rely on them.

B batch, F latent frames, H W token rows and columns, S = H*W, N = F*S, D width, A heads, d head size, L text
tokens. Layer classes come from `ops` (torch.nn, or a host's own). Source: diffusion/model/nets/sana_blocks.py
and basic_modules.py of the original, whose epsilons differ from place to place, as they do here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TransformerConfig
from ..shapes import LatentGrid
from .memory import BlockSums, Contribution
from .ops import KeyValueSum, linear_attention, rotate

LAYER_NORM_EPS = 1e-6
SELF_NORM_EPS = 1e-5  # on q and k of the self-attention
CROSS_NORM_EPS = 1e-6  # on q and k of the cross-attention
ATTENTION_EPS = 1e-8  # in the denominator of the linear attention
MASKED = -10000.0  # score added to padding; not -inf, so that a row without any text stays finite

# Largest intermediate of the feed-forward, in elements: CUDA convolutions index with 32 bits.
FEED_FORWARD_LIMIT = 2**30


class BlockContext(NamedTuple):
    """What all blocks of one call share."""

    frames: int
    grid: LatentGrid  # token rows and columns
    rotary: tuple[Tensor, Tensor]  # cosines and sines [N, d / 2]


class TextKeys(NamedTuple):
    """One block's keys and values for one prompt."""

    keys: Tensor  # [B, A, L, d], normalised
    values: Tensor  # [B, A, L, d]


class PreparedText(NamedTuple):
    """One prompt, projected once for all steps and chunks."""

    caption: Tensor  # [B, L, D]
    blocks: tuple[TextKeys, ...]
    bias: Tensor | None  # [B, 1, 1, L], 0 for text and MASKED for padding


class SelfAttention(nn.Module):
    """Linear attention with ReLU features; rotary positions in the numerator only."""

    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.qkv = ops.Linear(config.width, 3 * config.width, bias=False, **place)
        self.q_norm = ops.RMSNorm(config.width, eps=SELF_NORM_EPS, **place)
        self.k_norm = ops.RMSNorm(config.width, eps=SELF_NORM_EPS, **place)
        self.proj = ops.Linear(config.width, config.width, **place)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], past: KeyValueSum | None
    ) -> tuple[Tensor, KeyValueSum]:
        """x [B, N, D] -> output [B, N, D] and this call's sums."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = F.relu(self.q_norm(q)), F.relu(self.k_norm(k))
        q, k, v = (split_heads(y, self.head_dim) for y in (q, k, v))
        out, sums = linear_attention(q, k, rotate(q, rotary), rotate(k, rotary), v, past, ATTENTION_EPS)
        return self.proj(merge_heads(out)), sums


class CrossAttention(nn.Module):
    """Softmax attention to the caption. Its keys and values depend on the prompt alone."""

    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        self.head_dim = config.cross_head_dim
        self.q_linear = ops.Linear(config.width, config.width, **place)
        self.kv_linear = ops.Linear(config.width, 2 * config.width, **place)
        self.q_norm = ops.RMSNorm(config.width, eps=CROSS_NORM_EPS, **place)
        self.k_norm = ops.RMSNorm(config.width, eps=CROSS_NORM_EPS, **place)
        self.proj = ops.Linear(config.width, config.width, **place)

    def text_keys(self, caption: Tensor) -> TextKeys:
        """Keys and values of a projected caption [B, L, D]."""
        keys, values = self.kv_linear(caption).chunk(2, dim=-1)
        return TextKeys(split_heads(self.k_norm(keys), self.head_dim), split_heads(values, self.head_dim))

    def forward(self, x: Tensor, text: TextKeys, bias: Tensor | None) -> Tensor:
        """x [B, N, D], bias [B, 1, 1, L] or None -> [B, N, D]."""
        return self.proj(self.attend(self.q_linear(x), text, bias))

    def attend(self, queries: Tensor, text: TextKeys, bias: Tensor | None) -> Tensor:
        """What queries [B, N, D] read from the text, before the projection: [B, N, D]."""
        q = split_heads(self.q_norm(queries), self.head_dim)
        keys, values = (y.expand(len(q), -1, -1, -1) for y in text)  # one prompt may serve a whole batch
        return merge_heads(F.scaled_dot_product_attention(q, keys, values, attn_mask=bias))


class ConvLayer(nn.Module):
    """A convolution under the original's name `conv`."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class MixFeedForward(nn.Module):
    """A gated convolution within each latent frame, then one convolution over three latent frames."""

    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        width, hidden = config.width, config.ffn_hidden
        self.inverted_conv = ConvLayer(ops.Conv2d(width, 2 * hidden, 1, **place))
        depth_conv = ops.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, **place)
        self.depth_conv = ConvLayer(depth_conv)
        self.point_conv = ConvLayer(ops.Conv2d(hidden, width, 1, bias=False, **place))
        # without padding: `forward` adds the latent frames on either side
        self.t_conv = ops.Conv2d(width, width, (3, 1), bias=False, **place)
        self.frame_elements = 2 * hidden

    def _within_frames(self, x: Tensor) -> Tensor:
        x = self.depth_conv(F.silu(self.inverted_conv(x)))
        signal, gate = x.chunk(2, dim=1)
        return self.point_conv(signal * F.silu(gate))

    def forward(self, x: Tensor, context: BlockContext, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [B, N, D] -> output [B, N, D], and the last latent frame before the temporal convolution.

        That frame is [B, D, 1, S]. Left of the first latent frame comes `tail` (zeros without one). Right of
        the last one are always zeros, as in training, even if another chunk follows.
        """
        batch, width, frames = x.shape[0], x.shape[2], context.frames
        images = x.unflatten(1, (frames, *context.grid)).flatten(0, 1).permute(0, 3, 1, 2)
        group = max(1, FEED_FORWARD_LIMIT // (self.frame_elements * context.grid.area))
        images = torch.cat([self._within_frames(part) for part in images.split(group)])
        u = images.unflatten(0, (batch, frames)).flatten(3).transpose(1, 2)  # [B, D, F, S]
        zeros = u.new_zeros(batch, width, 1, context.grid.area)
        left = zeros if tail is None else tail.to(u.dtype)
        y = u + self.t_conv(torch.cat([left, u, zeros], dim=2))
        return y.permute(0, 2, 3, 1).flatten(1, 2), u[:, :, -1:]


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward; the timestep modulates the first and the last."""

    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        norm = {"elementwise_affine": False, "eps": LAYER_NORM_EPS, **place}
        self.norm1 = ops.LayerNorm(config.width, **norm)
        self.attn = SelfAttention(config, ops, **place)
        self.cross_attn = CrossAttention(config, ops, **place)
        self.norm2 = ops.LayerNorm(config.width, **norm)
        self.mlp = MixFeedForward(config, ops, **place)
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.width, **place))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        text: TextKeys,
        text_bias: Tensor | None,
        context: BlockContext,
        memory: BlockSums | None,
    ) -> tuple[Tensor, Contribution]:
        """x [B, N, D], modulation [B, 1 or F, 6, D] -> x, and this chunk's contribution (its tail a view)."""
        rows = (self.scale_shift_table.to(modulation) + modulation).unsqueeze(2).unbind(3)
        shift1, scale1, gate1, shift2, scale2, gate2 = rows  # each [B, 1 or F, 1, D]
        past, tail = (None, None) if memory is None else (memory.past, memory.tail)

        h = modulate(self.norm1(x), shift1, scale1, context.frames)
        attended, sums = self.attn(h, context.rotary, past)
        x = x + per_frame(attended, gate1, context.frames)
        x = x + self.cross_attn(x, text, text_bias)
        h = modulate(self.norm2(x), shift2, scale2, context.frames)
        mixed, tail = self.mlp(h, context, tail)
        return x + per_frame(mixed, gate2, context.frames), Contribution(sums, tail)


class FinalLayer(nn.Module):
    """The last norm, modulated by the time embedding itself, and the projection to patches."""

    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        out = config.patch * config.patch * config.channels
        self.norm_final = ops.LayerNorm(config.width, elementwise_affine=False, eps=LAYER_NORM_EPS, **place)
        self.linear = ops.Linear(config.width, out, **place)
        self.scale_shift_table = nn.Parameter(torch.empty(2, config.width, **place))

    def forward(self, x: Tensor, time: Tensor, frames: int) -> Tensor:
        """x [B, N, D], time [B, 1 or F, D] -> [B, N, patch * patch * channels]."""
        table = self.scale_shift_table.to(time) + time.unsqueeze(2)  # [B, 1 or F, 2, D]
        shift, scale = table.unsqueeze(2).unbind(3)
        return self.linear(modulate(self.norm_final(x), shift, scale, frames))


def per_frame(x: Tensor, factor: Tensor, frames: int) -> Tensor:
    """x [B, N, D] times factor [B, 1 or F, 1, D], latent frame by latent frame."""
    return (x.unflatten(1, (frames, -1)) * factor).flatten(1, 2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, frames: int) -> Tensor:
    """x [B, N, D] times (1 + scale) plus shift, both [B, 1 or F, 1, D]."""
    return (x.unflatten(1, (frames, -1)) * (1 + scale) + shift).flatten(1, 2)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[B, N, D] -> [B, A, N, d]."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, A, N, d] -> [B, N, D]."""
    return x.transpose(1, 2).flatten(2)
