"""The plain version, written to be read.

B batch, N tokens, D width, G groups of tokens that share a modulation (a latent frame, or the whole clip):

    x' = x + bias + gate * branch               (without a gate, x + bias + branch)
    h  = LayerNorm(x') * (1 + scale) + shift    (no affine weights)

The bias is that of a GEMM whose result was added to x without it.

Source: the AdaLN-single block of SANA-Video (arXiv 2509.24695); t2i_modulate in
diffusion/model/nets/sana_blocks.py of the original.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fp8_gemm.reference import Fp8Rows, fp8_rows


def residual_norm(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """x and branch [B, N, D]; gate, shift and scale [B, G, D]; bias [D]. Returns x' and h, both [B, N, D].

    Without a branch x itself is returned, and still lacks the bias.
    """
    if branch is not None:
        x, bias = gated_residual(x, branch, gate, bias=bias), None
    whole = x.to(torch.float32) if bias is None else x.to(torch.float32) + bias.float()
    h = F.layer_norm(whole, x.shape[-1:], eps=eps)
    groups = shift.shape[1]
    h = h.unflatten(1, (groups, -1)) * (1 + scale.float().unsqueeze(2)) + shift.float().unsqueeze(2)
    return x, h.flatten(1, 2).to(x.dtype)


def gated_residual(
    x: Tensor, branch: Tensor, gate: Tensor | None, extra: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """x + bias + gate * (branch + extra): gate [B, G, D], bias [D], others [B, N, D]; None is left out."""
    branch = branch if extra is None else branch + extra
    if gate is not None:
        grouped = branch.to(torch.float32).unflatten(1, (gate.shape[1], -1)) * gate.float().unsqueeze(2)
        branch = grouped.flatten(1, 2)
    elif bias is None:
        return x + branch
    whole = x.to(torch.float32) if bias is None else x.to(torch.float32) + bias.float()
    return (whole + branch).to(x.dtype)


def residual_norm_fp8(
    x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Fp8Rows]:
    """As residual_norm, with h in 8 bits."""
    x, h = residual_norm(x, branch, gate, shift, scale, eps)
    return x, fp8_rows(h)


def gated_residual_fp8(x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Fp8Rows]:
    """As gated_residual, and the same in 8 bits."""
    x = gated_residual(x, branch, gate)
    return x, fp8_rows(x)
