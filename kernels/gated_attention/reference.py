"""The plain version, written to be read.

B batch, A heads, N tokens, d head size, D = A d. With q~, k~ normalised over whole rows and rotated:

    S = sum_n sigmoid(b_n) k~_n v_n^T;   o_n = S^T q~_n
    y_n = w * o_n / sqrt(mean(o_n^2) + eps) * sigmoid(g_n)        mean over a head; w [d] is all heads'

There is no denominator: the norm takes its place. Softmax layers take `rotated_rows` alone, for q and k.
Source: SANA-Video 2.0; the attention classes in diffusion/model/nets/sana_blocks.py of the original.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..linear_attention.reference import rotate


def rotated_rows(
    qkv: Tensor, which: int, weight: Tensor, rotary: tuple[Tensor, Tensor], heads: int, eps: float,
    strength: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The third `which` (0 q, 1 k) of qkv [B, N, 3D], normalised and rotated: [B, N, D].

    The norm is over whole rows (all heads) with `weight` [D]; `rotary` holds cosines and sines [N, d / 2] of
    the pairs (2i, 2i + 1). Heads are multiplied by the sigmoid of `strength` [B, N, A] afterwards.
    """
    x = qkv.chunk(3, dim=-1)[which]
    x = rotate(_split_heads(F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps), heads), rotary)
    if strength is not None:
        x = x * strength.sigmoid().transpose(1, 2).unsqueeze(-1)
    return x.transpose(1, 2).flatten(2)


def key_value_product(keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """S, the sum over tokens of k v^T for keys and values [B, N, D]: [B, A, d, d] in float32."""
    keys, values = (_split_heads(part, heads).to(torch.float32) for part in (keys, values))
    return keys.mT @ values


def gated_heads(queries: Tensor, total: Tensor, weight: Tensor, gate: Tensor, eps: float) -> Tensor:
    """y of queries and gate [B, N, D], S [B, A, d, d] and the head norm's weight [d]: [B, N, D]."""
    heads = _split_heads(queries, total.shape[1]).to(total.dtype) @ total
    rows = F.rms_norm(heads, heads.shape[-1:], weight.to(heads.dtype), eps).transpose(1, 2).flatten(2)
    return (rows * gate.to(rows.dtype).sigmoid()).to(queries.dtype)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
