"""The plain version, written to be read.

B batch, N tokens, D width, G groups of tokens that share a modulation (a latent frame, or the whole clip). A
block reads no running sum but a mix of sources V_0 … V_m: sums that earlier groups of blocks left, and the
newest, which still grows:

    V_m = x + gate * branch + extra                     (what the last layers add to it)
    l_j = w . V_j / sqrt(mean(V_j^2) + mix_eps)         w: the reader's own vector
    mix = sum_j p_j V_j,  p = softmax_j(l_j)            for each token; of one source, that source
    h   = LayerNorm(mix) * (1 + scale) + shift          (no affine weights)

Only w and V_j decide l_j. So a source that won't grow any more keeps one number for each reader and token,
and is never normalised again.

Source: AttnRes in diffusion/model/nets of the original (SANA-Video 2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fp8_gemm.reference import Fp8Rows, fp8_rows
from ..residual_norm.reference import gated_residual


class Source(NamedTuple):
    """A sum that won't grow any more."""

    values: Tensor  # [B, N, D]
    logits: Tensor  # [B, N, R] of R readers, float32


class Mixed(NamedTuple):
    """What one pass makes. Parts that nobody asked for are None."""

    newest: Tensor  # [B, N, D]; x itself where nothing was added
    logits: Tensor | None  # [B, N, R], float32: with `newest`, a Source
    mix: Tensor | None  # [B, N, D]
    h: Tensor | Fp8Rows  # [B, N, D]


def residual_mix(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, extra: Tensor | None, others: Sequence[Source],
    readers: Tensor, reader: int, shift: Tensor, scale: Tensor, eps: float, mix_eps: float,
    want_logits: bool = False, want_mix: bool = False,
) -> Mixed:  # fmt: skip
    """x, branch and extra [B, N, D]; gate, shift and scale [B, G, D]; the readers' vectors [R, D].

    `reader` says whose mix it is. Without a branch nothing is added to x.
    """
    if branch is not None:
        x = gated_residual(x if extra is None else x + extra, branch, gate)
    logits = _logits(x, readers, mix_eps)
    mix = _mix([*(source.values for source in others), x], [*(s.logits for s in others), logits], reader)
    h = F.layer_norm(mix.to(torch.float32), mix.shape[-1:], eps=eps).unflatten(1, (shift.shape[1], -1))
    h = (h * (1 + scale.float().unsqueeze(2)) + shift.float().unsqueeze(2)).flatten(1, 2).to(x.dtype)
    return Mixed(x, logits if want_logits else None, mix if want_mix else None, h)


def residual_mix_fp8(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, extra: Tensor | None, others: Sequence[Source],
    readers: Tensor, reader: int, shift: Tensor, scale: Tensor, eps: float, mix_eps: float,
    want_logits: bool = False, want_mix: bool = False,
) -> Mixed:  # fmt: skip
    """As residual_mix, with h in 8 bits."""
    mixed = residual_mix(
        x, branch, gate, extra, others, readers, reader, shift, scale, eps, mix_eps, want_logits, want_mix
    )
    assert isinstance(mixed.h, Tensor)
    return mixed._replace(h=fp8_rows(mixed.h))


def _logits(x: Tensor, readers: Tensor, eps: float) -> Tensor:
    """[B, N, R]"""
    x = x.to(torch.float32)
    return (x @ readers.float().mT) * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def _mix(values: list[Tensor], logits: list[Tensor], reader: int) -> Tensor:
    if len(values) == 1:
        return values[0]
    shares = torch.stack([part[..., reader] for part in logits], dim=-1).softmax(-1)
    mix = sum(part * share for part, share in zip(values, shares.unsqueeze(-1).unbind(-2), strict=True))
    return torch.as_tensor(mix).to(values[0].dtype)
