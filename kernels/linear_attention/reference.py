"""The plain version, written to be read.

B batch, A heads, N tokens, d head size. With features q, k >= 0 and their rotated forms q~, k~:

    out_n = (sum_m v_m k~_m^T) q~_n / ((sum_m k_m) . q_n + eps)

Both sums run over the tokens of this call and over everything in `past`. Source: SANA-Video (arXiv
2509.24695), section on block linear attention; LiteLAReLURope in diffusion/model/nets/sana_blocks.py of the
original.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_MEAN = 2.0**-100  # of a head's ksum; less counts as zero


class KeyValueSum(NamedTuple):
    """What a run of tokens leaves behind; float32 whatever the dtype of the tokens."""

    vk: Tensor  # [B, A, d, d] sum of v k~^T: rows are the value's dimensions, columns the key's
    ksum: Tensor  # [B, A, d] sum of the unrotated k

    def __add__(self, other: KeyValueSum) -> KeyValueSum:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sum of two runs; a new value (a named tuple would otherwise concatenate)."""
        return KeyValueSum(self.vk + other.vk, self.ksum + other.ksum)


def key_value_sum(
    qkv: Tensor, weight: Tensor, rotary: tuple[Tensor, Tensor], heads: int, eps: float
) -> KeyValueSum:
    """The sums over the tokens of qkv [B, N, 3D], of k = relu(norm(k)) and v.

    k is normalised over whole rows (all heads) with `weight` [D], and for vk rotated by `rotary`: cosines and
    sines [N, d / 2] of the pairs (2i, 2i + 1).
    """
    k, v = (_split_heads(part, heads) for part in (_features(qkv, 1, weight, eps), qkv.chunk(3, dim=-1)[2]))
    turned, values = rotate(k, rotary).to(torch.float32), v.to(torch.float32)
    return KeyValueSum(values.mT @ turned, k.to(torch.float32).sum(dim=-2))


def query_rows(
    qkv: Tensor, weight: Tensor, rotary: tuple[Tensor, Tensor], ksum: Tensor, heads: int, norm_eps: float,
    eps: float,
) -> Tensor:  # fmt: skip
    """m q~ / (ksum . q + eps) of qkv [B, N, 3D]: [B, N, D]. Times vk / m, it is the attention.

    m is the mean of a head's ksum: with it all heads have one magnitude, however large their sums are.
    """
    q = _split_heads(_features(qkv, 0, weight, norm_eps), heads)
    below = q.to(torch.float32) @ ksum.unsqueeze(-1) + eps
    turned = rotate(q, rotary) * head_mean(ksum)[..., None, None]
    return (turned / below).to(qkv.dtype).transpose(1, 2).flatten(2)


def folded_weight(weight: Tensor, total: KeyValueSum) -> Tensor:
    """A projection of all heads [O, D] folded with vk / m: [B, O, D] in the weight's dtype.

    W (vk q) = (W vk) q: a sum is as small as a weight, and no token has to be multiplied with it.
    """
    vk = _by_mean(total)
    by_head = weight.unflatten(1, (vk.shape[1], -1)).transpose(0, 1).to(vk.dtype)  # [A, O, d]
    return (by_head @ vk).transpose(1, 2).flatten(2).to(weight.dtype)


def read_rows(queries: Tensor, total: KeyValueSum) -> Tensor:
    """The attention itself, where a projection cannot be folded: `query_rows` times vk / m, [B, N, D]."""
    vk = _by_mean(total)
    rows = _split_heads(queries, vk.shape[1]).to(vk.dtype) @ vk.mT
    return rows.to(queries.dtype).transpose(1, 2).flatten(2)


def head_mean(ksum: Tensor) -> Tensor:
    """m of ksum [B, A, d]: [B, A]. It is 0 for a head without keys, whose vk is 0, too."""
    mean = ksum.mean(-1)
    return torch.where(mean > LEAST_MEAN, mean, 0)


def _by_mean(total: KeyValueSum) -> Tensor:
    mean = head_mean(total.ksum)[..., None, None]
    return torch.where(mean > 0, total.vk / mean, 0)


def _features(qkv: Tensor, which: int, weight: Tensor, eps: float) -> Tensor:
    x = qkv.chunk(3, dim=-1)[which]
    return F.relu(F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps))


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, A, N, d] with each pair (2i, 2i + 1) of dimensions rotated by its angle, computed in float32."""
    cosines, sines = table
    even, odd = x.to(torch.float32).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def linear_attention(
    q: Tensor,
    k: Tensor,
    q_rotated: Tensor,
    k_rotated: Tensor,
    v: Tensor,
    past: KeyValueSum | None,
    eps: float,
) -> tuple[Tensor, KeyValueSum]:
    """Attend to the tokens of this call and to `past`.

    q, k, q_rotated, k_rotated, v: [B, A, N, d]. Returns the output [B, A, N, d] in v's dtype and the sums
    over the tokens of this call, without `past`.
    """
    q, k, q_rotated, k_rotated, values = (x.to(torch.float32) for x in (q, k, q_rotated, k_rotated, v))
    sums = KeyValueSum(vk=values.transpose(-1, -2) @ k_rotated, ksum=k.sum(dim=-2))
    total = sums if past is None else past + sums
    numerator = q_rotated @ total.vk.transpose(-1, -2)
    denominator = q @ total.ksum.unsqueeze(-1) + eps
    return (numerator / denominator).to(v.dtype), sums
