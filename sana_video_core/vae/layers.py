"""The layers of the Wan 2.1 video VAE. Parameter names are the original's: checkpoints rely on them.

B batch, C channels, T time steps of one call, H W rows and columns. The network is causal in time: a layer
that looks back takes what it needs of the past, and returns what the next call will need.

* `forward(x, past)` returns the output and what to keep. `past` is None at the start of a clip, whose first
  call brings exactly one time step. A layer keeps `slots` tensors, all of them from the first call on.
* What is kept is a value: tensors that share no memory with others, and are never written to.

Layer classes come from `ops` (torch.nn, or a host's own). Source: Wan 2.1 VAE, wan/modules/vae.py of the
original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import StateError

Cache: TypeAlias = tuple[Tensor, ...]

HISTORY = 2  # time steps that a kernel of three looks back
HALF_TYPES = (torch.float16, torch.bfloat16)


class RMSNorm(nn.Module):
    """Every position's channels divided by their root mean square, times gamma [C, 1, ...]."""

    def __init__(self, channels: int, axes: int, **place: Any) -> None:
        """`axes` counts the axes behind the channels: 3 for video, 2 for pictures."""
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * axes, **place))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, ...] -> the same shape."""
        return rms_norm(x, self.gamma)


def rms_norm(x: Tensor, gamma: Tensor, axis: int = 1) -> Tensor:
    """x with its channels on `axis` -> the same shape. Half types are squared and summed in float32."""
    wide = x.float() if x.dtype in HALF_TYPES else x
    return F.normalize(wide, dim=axis).to(x.dtype) * x.shape[axis] ** 0.5 * gamma


def video_conv(channels: int, out: int, ops: Any, **place: Any) -> nn.Module:
    """A 3 x 3 x 3 convolution without padding in time: `causal` puts the past there."""
    return ops.Conv3d(channels, out, 3, padding=(0, 1, 1), **place)


def causal(conv: nn.Module, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """A convolution over three time steps, the current one last; before a clip there are zeros.

    x [B, C, T, H, W] and past [B, C, 2, H, W] -> output [B, C', T, H', W'] and the next call's past.
    """
    if past is None:
        past = no_history(x)
    # from both, because one old time step stays if T is 1
    seen = torch.cat((past, x), dim=2)
    return over_time(conv, seen), seen[:, :, -HISTORY:].clone()


def over_time(conv: nn.Module, seen: Tensor) -> Tensor:
    """conv over seen [B, C, 2 + T, H, W] -> [B, C', T, H', W'], on the CPU as a batch of T windows of three.

    For a small video that is a batch of one, torch takes a convolution ten times slower than oneDNN's (see
    ConvParams::use_mkldnn of ATen). The sums are the same, and copying T times three frames is cheap.
    """
    steps = seen.shape[2] - HISTORY
    if seen.device.type != "cpu" or steps == 1:
        return conv(seen)
    windows = seen.unfold(2, HISTORY + 1, 1).permute(0, 2, 1, 5, 3, 4).flatten(0, 1)  # [B * T, C, 3, H, W]
    return conv(windows).squeeze(2).unflatten(0, (-1, steps)).transpose(1, 2)


def no_history(x: Tensor) -> Tensor:
    """The two time steps of zeros before x [B, C, T, H, W]."""
    batch, channels, _, rows, columns = x.shape
    return x.new_zeros(batch, channels, HISTORY, rows, columns)


def per_picture(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer for pictures on every time step of x [B, C, T, H, W] -> [B, C', T, H', W']."""
    pictures = x.transpose(1, 2).flatten(0, 1)  # [B * T, C, H, W]
    return layer(pictures).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class CausalLayer(nn.Module):
    """A layer with a past: takes x and the kept tensors, returns x and the tensors to keep."""

    slots: ClassVar[int] = 0

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """x [B, C, T, H, W] -> output and `slots` tensors."""
        raise NotImplementedError


class ResidualBlock(CausalLayer):
    """Two rounds of norm, SiLU and causal convolution, added to the raw input."""

    slots = 2

    def __init__(self, channels: int, out: int, ops: Any, **place: Any) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(channels, 3, **place),
            nn.SiLU(),
            video_conv(channels, out, ops, **place),
            RMSNorm(out, 3, **place),
            nn.SiLU(),
            nn.Identity(),  # dropout in training; keeps the second convolution's name `residual.6`
            video_conv(out, out, ops, **place),
        )
        self.shortcut = nn.Identity() if channels == out else ops.Conv3d(channels, out, 1, **place)

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """x [B, C, T, H, W] -> [B, C', T, H, W]; keeps the inputs of both convolutions."""
        before_first, before_second = past or (None, None)
        norm, activate, conv, second_norm, _, _, second_conv = self.residual
        y, first = causal(conv, activate(norm(x)), before_first)
        y, second = causal(second_conv, activate(second_norm(y)), before_second)
        return y + self.shortcut(x), (first, second)


class PictureAttention(CausalLayer):
    """Softmax attention within each time step: one head as wide as the channels, no positions."""

    def __init__(self, channels: int, ops: Any, **place: Any) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, 2, **place)
        self.to_qkv = ops.Conv2d(channels, 3 * channels, 1, **place)
        self.proj = ops.Conv2d(channels, channels, 1, **place)

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """x [B, C, T, H, W] -> the same shape; keeps nothing."""
        return x + per_picture(self._attend, x), ()

    def _attend(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> the same shape."""
        tokens = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)  # [N, H * W, 3 C]
        q, k, v = tokens.unsqueeze(1).contiguous().chunk(3, dim=-1)  # each [N, one head, H * W, C]
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.squeeze(1).transpose(1, 2).reshape(x.shape))


class HalveSpace(CausalLayer):
    """Half the rows and columns."""

    def __init__(self, channels: int, ops: Any, **place: Any) -> None:
        super().__init__()
        # right and bottom only: a symmetric border would shift the picture by a pixel
        border = nn.ZeroPad2d((0, 1, 0, 1))
        self.resample = nn.Sequential(border, ops.Conv2d(channels, channels, 3, stride=2, **place))

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """x [B, C, T, H, W] -> [B, C, T, H / 2, W / 2]; keeps nothing."""
        return per_picture(self.resample, x), ()


class HalveSpaceAndTime(HalveSpace):
    """Half the rows, columns and time steps. The first time step of a clip stays single."""

    slots = 1

    def __init__(self, channels: int, ops: Any, **place: Any) -> None:
        super().__init__(channels, ops, **place)
        self.time_conv = ops.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1), **place)

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """x [B, C, T, H, W] -> [B, C, T / 2, H / 2, W / 2]; keeps the last reduced time step."""
        y = per_picture(self.resample, x)
        kept = y[:, :, -1:].clone()
        if past is None:
            return y, (kept,)
        return self.time_conv(torch.cat((*past, y), dim=2)), (kept,)


class DoubleSpace(CausalLayer):
    """Twice the rows and columns, half the channels: the next level starts at half width."""

    def __init__(self, channels: int, ops: Any, **place: Any) -> None:
        super().__init__()
        repeat = nn.Upsample(scale_factor=2, mode="nearest-exact")
        self.resample = nn.Sequential(repeat, ops.Conv2d(channels, channels // 2, 3, padding=1, **place))

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """x [B, C, T, H, W] -> [B, C / 2, T, 2 H, 2 W]; keeps nothing."""
        return per_picture(self.resample, x), ()


class DoubleTimeAndSpace(DoubleSpace):
    """Twice the time steps, rows and columns. The first time step of a clip stays single."""

    slots = 1

    def __init__(self, channels: int, ops: Any, **place: Any) -> None:
        super().__init__(channels, ops, **place)
        self.time_conv = ops.Conv3d(channels, 2 * channels, (3, 1, 1), **place)

    def forward(self, x: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """x [B, C, T, H, W] -> [B, C / 2, 2 T, 2 H, 2 W]; keeps the input of the time convolution."""
        if past is None:
            # the first time step never enters the time convolution, not even as the past of the second
            return per_picture(self.resample, x), (no_history(x),)
        y, kept = causal(self.time_conv, x, *past)
        y = y.unflatten(1, (2, x.shape[1]))  # [B, two, C, T, H, W]: each time step becomes two
        y = y.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)  # [B, C, 2 T, H, W]
        return per_picture(self.resample, y), (kept,)


# between the four levels: DOWN from the finest, UP back to it (the original's class defaults halve time one
# level earlier, the released weights don't)
DOWN = (HalveSpace, HalveSpaceAndTime, HalveSpaceAndTime)
UP = (DoubleTimeAndSpace, DoubleTimeAndSpace, DoubleSpace)


class CausalNetwork(nn.Module):
    """What encoder and decoder share: a first convolution, a body with attention in its middle, a head."""

    def __init__(
        self, first: tuple[int, int], middle: int, head: tuple[int, int], ops: Any, **place: Any
    ) -> None:
        """`first` and `head` are channels in and out, `middle` is the width of the coarsest level."""
        super().__init__()
        self.conv1 = video_conv(*first, ops, **place)
        self.middle = nn.Sequential(
            ResidualBlock(middle, middle, ops, **place),
            PictureAttention(middle, ops, **place),
            ResidualBlock(middle, middle, ops, **place),
        )
        self.head = nn.Sequential(RMSNorm(head[0], 3, **place), nn.SiLU(), video_conv(*head, ops, **place))

    def body(self) -> Iterator[CausalLayer]:
        """The layers between the first convolution and the head, in order."""
        raise NotImplementedError

    def forward(self, x: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """x [B, C, T, H, W] -> output and the next cache: all kept tensors, in the order of the layers."""
        if cache is not None:
            self.check_fits(cache, x)
        x, first = causal(self.conv1, x, None if cache is None else cache[0])
        kept = [first]
        for layer in self.body():
            past = None if cache is None else cache[len(kept) : len(kept) + layer.slots]
            x, tensors = layer(x, past)
            kept.extend(tensors)
        norm, activate, conv = self.head
        x, last = causal(conv, activate(norm(x)), None if cache is None else cache[-1])
        return x, (*kept, last)

    def check_fits(self, cache: Sequence[Tensor], x: Tensor) -> None:
        """Raises StateError for another clip's cache, by the size and dtype of its first tensor."""
        batch, channels, _, rows, columns = x.shape
        required = (
            2 + sum(layer.slots for layer in self.body()),
            batch,
            channels,
            HISTORY,
            rows,
            columns,
            x.dtype,
        )
        actual = "of a tiled clip" if cache else "empty, as a list is after its step"
        if cache and isinstance(cache[0], Tensor):
            actual = len(cache), *cache[0].shape, cache[0].dtype
        if actual != required:
            raise StateError(
                "This cache does not belong to this clip: "
                f"it is {actual} (tensors, sizes and type of the first), but has to be {required}. "
                "Keep batch, size, type and tiling, or begin a clip without a cache."
            )
