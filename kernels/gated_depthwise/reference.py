"""The plain version, written to be read.

A latent frame is an image of H x W tokens with 2M channels; the first M are the signal, the others its gate:

    a = silu(u + bias_up);   b = depthwise 3x3 of a, plus bias;   y = b_signal * silu(b_gate)

Outside of the image a is zero. Source: GLUMBConv in diffusion/model/nets/basic_modules.py of the original.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def gated_depthwise(
    u: Tensor, bias_up: Tensor, weight: Tensor, bias: Tensor, rows: int, columns: int
) -> Tensor:
    """u [n, H*W, 2M] of n images, bias_up and bias [2M], weight [2M, 1, 3, 3] -> [n, H*W, M]."""
    a = F.silu(u + bias_up).unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    signal, gate = F.conv2d(a, weight, bias, padding=1, groups=weight.shape[0]).chunk(2, dim=1)
    return (signal * F.silu(gate)).permute(0, 2, 3, 1).flatten(1, 2)
