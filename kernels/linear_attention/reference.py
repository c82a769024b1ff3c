"""The plain version, written to be read.

B batch, A heads, N tokens, d head size. With features q, k >= 0 and their rotated forms q~, k~:

    out_n = (sum_m v_m k~_m^T) q~_n / ((sum_m k_m) . q_n + eps)

Both sums run over the tokens of this call and over everything in `past`. Source: SANA-Video (arXiv 2509.24695),
section on block linear attention; LiteLAReLURope in diffusion/model/nets/sana_blocks.py of the original.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class KeyValueSum(NamedTuple):
    """What a run of tokens leaves behind. float32 whatever the dtype of the tokens."""

    vk: Tensor  # [B, A, d, d] sum of v k~^T: rows are the value's dimensions, columns the key's
    ksum: Tensor  # [B, A, d] sum of the unrotated k

    def __add__(self, other: KeyValueSum) -> KeyValueSum:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sum of two runs; a new value (a named tuple would otherwise concatenate)."""
        return KeyValueSum(self.vk + other.vk, self.ksum + other.ksum)


def linear_self_attention(
    qkv: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: tuple[Tensor, Tensor],
    past: KeyValueSum | None,
    heads: int,
    norm_eps: float,
    eps: float,
) -> tuple[Tensor, KeyValueSum]:
    """From the product qkv [B, N, 3D] to the attended rows [B, N, D], and the sum over these tokens alone.

    q and k are normalised over whole rows (all heads) with weights [D], cut to their positive part, and for the numerator
    turned by `rotary`: cosines and sines [N, d / 2] of the pairs (2i, 2i + 1).
    """
    q, k, v = qkv.chunk(3, dim=-1)
    width = q.shape[-1:]
    q = F.relu(F.rms_norm(q, width, q_weight.to(q.dtype), norm_eps))
    k = F.relu(F.rms_norm(k, width, k_weight.to(k.dtype), norm_eps))
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
    out, own = linear_attention(q, k, rotate(q, rotary), rotate(k, rotary), v, past, eps)
    return out.transpose(1, 2).flatten(2), own


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, A, N, d] with each pair (2i, 2i + 1) of dimensions turned by its angle; float32 inside, x's dtype out."""
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

    q, k, q_rotated, k_rotated, v: [B, A, N, d]. Returns the output [B, A, N, d] in v's dtype and the sum over
    the tokens of this call alone, without `past`.
    """
    q, k, q_rotated, k_rotated, values = (x.to(torch.float32) for x in (q, k, q_rotated, k_rotated, v))
    own = KeyValueSum(vk=values.transpose(-1, -2) @ k_rotated, ksum=k.sum(dim=-2))
    total = own if past is None else past + own
    numerator = q_rotated @ total.vk.transpose(-1, -2)
    denominator = q @ total.ksum.unsqueeze(-1) + eps
    return (numerator / denominator).to(v.dtype), own
