"""The layers of the LTX-2 video VAE. Parameter names are the original's: checkpoints rely on them.

B batch, C channels, T frames of one call, H W rows and columns. Every layer runs over a clip piece by piece:

* `forward(x, past, last)` returns the output so far and what the next call needs. `past` is None at the start
  of a clip, `last` says that x is its end. A layer that sees a frame ahead returns fewer frames than it took
  (None for none) and the rest at the end.
* What is kept is a value: tensors that share no memory with others, and are never written to.

Beyond both ends of a clip convolutions see its first and last frame again, never zeros. Norms have no
weights. Layer classes come from `ops` (torch.nn, or a host's own). Source: the LTX-2 video VAE, as in
diffusers' AutoencoderKLLTX2Video.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import HALF_TYPES, HISTORY, over_time
from .ltx_config import PATCH, Factor

Past: TypeAlias = tuple[Any, ...]
EPSILON = 1e-8  # of the squares' mean


def active(x: Tensor) -> Tensor:
    """SiLU of every position's channels over their root mean square; x [B, C, ...] -> the same shape.

    Half types are squared and summed in float32.
    """
    wide = torch.float32 if x.dtype in HALF_TYPES else x.dtype
    squares = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide).square()
    return F.silu((x * (squares / x.shape[1] + EPSILON).rsqrt()).to(x.dtype))


def space_to_depth(x: Tensor, factor: Factor) -> Tensor:
    """x [B, C, a T, b H, c W] -> [B, C a b c, T, H, W]."""
    a, b, c = factor
    batch, channels, frames, rows, columns = x.shape
    x = x.reshape(batch, channels, frames // a, a, rows // b, b, columns // c, c)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def depth_to_space(x: Tensor, factor: Factor) -> Tensor:
    """x [B, C a b c, T, H, W] -> [B, C, a T, b H, c W]."""
    x = x.unflatten(1, (-1, *factor)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def patches(pixels: Tensor) -> Tensor:
    """[B, 3, T, 4 H, 4 W] -> [B, 48, T, H, W]; of a patch's pixels the columns come first."""
    x = pixels.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH))
    return x.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def pixels_of(x: Tensor) -> Tensor:
    """[B, 48, T, H, W] -> [B, 3, T, 4 H, 4 W]."""
    x = x.unflatten(1, (-1, PATCH, PATCH)).permute(0, 1, 4, 5, 3, 6, 2)
    return x.flatten(5, 6).flatten(3, 4)


def joined(waiting: Tensor | None, x: Tensor) -> Tensor:
    """The frames that wait, and x behind them."""
    return x if waiting is None or not waiting.shape[2] else torch.cat((waiting, x), dim=2)


class VideoConv(nn.Module):
    """A 3 x 3 x 3 convolution. If it isn't causal, it looks one frame ahead."""

    def __init__(
        self, channels: int, out: int, ops: Any, *, causal: bool, padding: str, **place: Any
    ) -> None:
        super().__init__()
        self.causal = causal
        self.conv = ops.Conv3d(channels, out, 3, padding=(0, 1, 1), padding_mode=padding, **place)

    def forward(self, x: Tensor, past: Tensor | None, last: bool) -> tuple[Tensor | None, Tensor]:
        """x [B, C, T, H, W] -> [B, C', T', H, W]; keeps the last two frames."""
        if past is None:
            past = x[:, :, :1].expand(-1, -1, HISTORY if self.causal else 1, -1, -1)
        end = (x[:, :, -1:],) if last and not self.causal else ()
        seen = torch.cat((past, x, *end), dim=2)
        y = over_time(self.conv, seen) if seen.shape[2] > HISTORY else None
        return y, seen[:, :, -HISTORY:].clone()


class ResBlock(nn.Module):
    """Two rounds of norm, SiLU and convolution, added to the raw input."""

    growth = 1

    def __init__(self, channels: int, ops: Any, **options: Any) -> None:
        super().__init__()
        self.conv1 = VideoConv(channels, channels, ops, **options)
        self.conv2 = VideoConv(channels, channels, ops, **options)

    def forward(self, x: Tensor, past: Past | None, last: bool) -> tuple[Tensor | None, Past]:
        """x [B, C, T, H, W] -> [B, C, T', H, W]; keeps the pasts of both, and the input that waits."""
        first, second, waiting = past or (None, None, None)
        y, first = self.conv1(active(x), first, last)
        if y is not None:
            y, second = self.conv2(active(y), second, last)
        waiting = joined(waiting, x)
        if y is None:
            return None, (first, second, waiting.clone())
        return y + waiting[:, :, : y.shape[2]], (first, second, waiting[:, :, y.shape[2] :].clone())


class Blocks(nn.Module):
    """The residual blocks of a level."""

    def __init__(self, count: int, channels: int, ops: Any, **options: Any) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(ResBlock(channels, ops, **options) for _ in range(count))


class Down(nn.Module):
    """Fewer frames, rows and columns, more channels. The first frame of a clip stays single in time."""

    def __init__(self, channels: int, out: int, factor: Factor, ops: Any, **options: Any) -> None:
        super().__init__()
        self.factor = factor
        self.conv = VideoConv(channels, out // math.prod(factor), ops, **options)

    def forward(self, x: Tensor, past: Tensor | None, last: bool) -> tuple[Tensor, Tensor]:
        """x [B, C, T, H, W] -> [B, C', T', H', W'], causal; from the second piece on, T is even."""
        if past is None and self.factor[0] == 2:
            x = torch.cat((x[:, :, :1], x), dim=2)
        y, kept = self.conv(x, past, last)
        y = space_to_depth(y, self.factor)
        groups = space_to_depth(x, self.factor).unflatten(1, (y.shape[1], -1))
        return y + groups.mean(dim=2), kept


class Up(nn.Module):
    """More frames, rows and columns, fewer channels. The first frame of a clip stays single in time."""

    def __init__(
        self, channels: int, out: int, factor: Factor, ops: Any, *, shortcut: bool, **options: Any
    ) -> None:
        super().__init__()
        self.factor, self.shortcut, self.growth = factor, shortcut, factor[0]
        self.conv = VideoConv(channels, out * math.prod(factor), ops, **options)

    def forward(self, x: Tensor, past: Past | None, last: bool) -> tuple[Tensor | None, Past]:
        """x [B, C, T, H, W] -> [B, C', T', H', W'].

        Keeps the convolution's past, the input that waits, and whether the first frame has left.
        """
        before, waiting, begun = past or (None, None, False)
        y, before = self.conv(x, before, last)
        frames = 0 if y is None else y.shape[2]
        if y is not None:
            y = depth_to_space(y, self.factor)
        if self.shortcut:
            waiting = joined(waiting, x)
            if y is not None:
                own = depth_to_space(waiting[:, :, :frames], self.factor)
                y = y + own.repeat(1, y.shape[1] // own.shape[1], 1, 1, 1)
            waiting = waiting[:, :, frames:].clone()
        if y is not None and not begun and self.growth == 2:
            y = y[:, :, 1:]
        return y, (before, waiting, begun or y is not None)
