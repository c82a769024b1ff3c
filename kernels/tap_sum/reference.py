"""The plain version, written to be read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HISTORY = 2  # time steps that a kernel of three looks back


def sum_of_taps(planes: Tensor, bias: Tensor) -> Tensor:
    """The end of a 3 x 3 x 3 convolution to a few channels, whose products are made: planes
    [3, 3, 3, C, B, 2 + T, H, W] by tap (time, row, column) and channel, bias [C] -> [B, C, T, H, W].

    Outside of the picture there are zeros.
    """
    steps, rows, columns = planes.shape[5] - HISTORY, *planes.shape[6:]
    padded = F.pad(planes.to(torch.promote_types(planes.dtype, torch.float32)), (1, 1, 1, 1))
    out = bias.to(padded.dtype).view(1, -1, 1, 1, 1)
    for time in range(3):
        for row in range(3):
            for column in range(3):
                tap = padded[time, row, column, :, :, time : time + steps]
                out = out + tap[..., row : row + rows, column : column + columns].transpose(0, 1)
    return out.to(planes.dtype)
