"""The layers of ltx_layers.py on the fused kernels: channels last, and fewer passes over memory.

Read ltx_layers.py first: this file computes the same, and tests compare the two. Between the layers goes what
a convolution left: the pass that reads it adds bias and residual, puts neighbours in their places, norms,
activates, and lays the frames out as the next convolution reads them, with those before a piece in front and
the border around them.

`__call__(passed, past, last)` is as `forward` there, on what passes. Nothing that is kept is written to.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .fused_weights import (
    Lender,
    channels_first,
    channels_last,
    paired_weights,
    per_picture,
    stacked_weight,
    video_weight,
)
from .ltx_config import Factor
from .ltx_layers import Down, Past, ResBlock, Up, VideoConv, patches, pixels_of
from .ops import Pending

# the widest convolutions that read three frames' channels side by side, as pictures: where cuDNN takes these
# faster than videos, by more than their writing costs. Of the Wan VAE's at 96 channels (docs/log.md)
WIDEST_STACKED = 128
# the widest that make pairs of frames, if their number is even, with four products in place of six; these
# need weights of their own, which are 4/3 as large, beside the others
WIDEST_PAIRED = 256


class Passed:
    """What a layer leaves. Whoever takes it has the only reference, so that it can go as soon as it was
    read.
    """

    def __init__(self, pending: Pending) -> None:
        self._pending: Pending | None = pending

    def take(self) -> Pending:
        pending, self._pending = self._pending, None
        assert pending is not None, "the layer before left something"
        return pending

    def added(self, old: Tensor | None, new: Tensor | None, **places: Any) -> Passed:
        """With a residual, and where neighbours go."""
        return Passed(self.take()._replace(old=old, new=new, **places))

    @property
    def frames(self) -> int:
        """Of what the convolution made."""
        assert self._pending is not None, "the layer before left something"
        return ops.frames_of(self._pending)

    @property
    def length(self) -> int:
        """Frames of the enlarged."""
        assert self._pending is not None, "the layer before left something"
        return ops.length_of(self._pending)

    def divided(self, frames: int) -> list[Passed]:
        """Pieces of at most so many frames each."""
        if self.length <= frames:
            return [self]
        # copies let go of the whole while the first goes on
        return [Passed(Pending(part.clone())) for part in ops.clip_sum(self.take()).split(frames, dim=1)]


class Read(NamedTuple):
    """What a convolution makes of what it reads."""

    total: Tensor | None  # what it reads, before the norm [B, T, H, W, C], if asked for
    out: Passed | None  # None as long as there are too few frames
    kept: Tensor  # for the next call


Made: TypeAlias = tuple[Passed | None, Any]  # the output so far, and what the next call needs


class FusedConv:
    """A convolution, behind norm and SiLU if it is `active`."""

    def __init__(self, layer: VideoConv, lender: Lender, *, active: bool, neighbours: int = 1) -> None:
        weight, bias = lender.weights(layer.conv)
        self.causal, self.reflect = layer.causal, layer.conv.padding_mode == "reflect"
        self.active, self.stacked = active, weight.shape[1] <= WIDEST_STACKED
        self.bias, weight = _one_by_one(bias, neighbours), _one_by_one(weight, neighbours)
        self.weight = (stacked_weight if self.stacked else video_weight)(weight)
        self.pairs = paired_weights(weight) if weight.shape[1] <= WIDEST_PAIRED else []

    def __call__(self, passed: Passed, past: Tensor | None, last: bool, want_total: bool = False) -> Read:
        front, last = 2 if self.causal else 1, last and not self.causal
        count = passed.length + last - (ops.HISTORY - front if past is None else 0)
        paired = bool(self.pairs) and count > 0 and count % 2 == 0
        total, seen, kept = ops.clip_frames(
            passed.take(),
            past,
            front=front,
            last=last,
            active=self.active,
            stacked=self.stacked and not paired,
            paired=paired,
            reflect=self.reflect,
            want_total=want_total,
        )
        if seen is None:
            return Read(total, None, kept)
        return Read(total, Passed(Pending(self._made(seen, paired), self.bias)), kept)

    def _made(self, seen: Tensor, paired: bool) -> Tensor | ops.Four:
        padding = 0 if self.reflect else 1
        if paired:
            first, middle, crossed, last = (
                per_picture(weight, part, padding=padding)
                for weight, part in zip(self.pairs, seen, strict=True)
            )
            return first, middle, crossed, last
        if self.stacked:
            return per_picture(self.weight, seen, padding=padding)
        y = F.conv3d(channels_first(seen), self.weight, padding=(0, padding, padding))
        return channels_last(y)


class FusedInput:
    """The first convolution, of x [B, C, T, H, W]."""

    def __init__(self, layer: VideoConv, lender: Lender) -> None:
        self.conv = FusedConv(layer, lender, active=False)

    def __call__(self, x: Tensor, past: Tensor | None, last: bool) -> Made:
        _, out, kept = self.conv(Passed(Pending(channels_last(x))), past, last)
        return out, kept


class FusedPatches(FusedInput):
    """The encoder's, of pixels."""

    def __call__(self, x: Tensor, past: Tensor | None, last: bool) -> Made:
        return super().__call__(patches(x), past, last)


class FusedResBlock:
    def __init__(self, layer: ResBlock, lender: Lender) -> None:
        self.convs = [FusedConv(conv, lender, active=True) for conv in (layer.conv1, layer.conv2)]

    def __call__(self, passed: Passed, past: Past | None, last: bool) -> Made:
        first, second, waiting = past or (None, None, None)
        total, out, first = self.convs[0](passed, first, last, want_total=True)
        if out is not None:
            _, out, second = self.convs[1](out, second, last)
        kept = first, second, _left(waiting, total, out)
        return (None if out is None else out.added(waiting, total)), kept


class FusedUp:
    def __init__(self, layer: Up, lender: Lender) -> None:
        self.factor, self.shortcut = layer.factor, layer.shortcut
        self.conv = FusedConv(layer.conv, lender, active=False, neighbours=math.prod(layer.factor))

    def __call__(self, passed: Passed, past: Past | None, last: bool) -> Made:
        before, waiting, begun = past or (None, None, False)
        total, out, before = self.conv(passed, before, last, want_total=self.shortcut)
        left = _left(waiting, total, out) if self.shortcut else None
        if out is None:
            return None, (before, left, begun)
        drop = 0 if begun else self.factor[0] - 1  # the first frame of a clip stays single in time
        return out.added(waiting, total, factor=self.factor, drop=drop), (before, left, True)


class FusedDown:
    def __init__(self, layer: Down, lender: Lender) -> None:
        self.factor = layer.factor
        self.conv = FusedConv(layer.conv, lender, active=False)

    def __call__(self, passed: Passed, past: Tensor | None, last: bool) -> Made:
        x = ops.clip_sum(passed.take())
        if past is None and self.factor[0] == 2:
            x = torch.cat((x[:, :1], x), dim=1)
        _, out, kept = self.conv(Passed(Pending(x)), past, last)
        y = _to_depth(_whole(out), self.factor)
        groups = _to_depth(x, self.factor).unflatten(4, (y.shape[4], -1))
        return Passed(Pending(y + groups.mean(dim=5))), kept


class FusedMoments:
    """The last convolution."""

    def __init__(self, layer: VideoConv, lender: Lender) -> None:
        self.conv = FusedConv(layer, lender, active=True)

    def __call__(self, passed: Passed, past: Tensor | None, last: bool) -> tuple[Tensor | None, Tensor]:
        _, out, kept = self.conv(passed, past, last)
        return (None if out is None else channels_first(_whole(out))), kept


class FusedColours(FusedMoments):
    """The decoder's, to pixels."""

    def __call__(self, passed: Passed, past: Tensor | None, last: bool) -> tuple[Tensor | None, Tensor]:
        y, kept = super().__call__(passed, past, last)
        return (None if y is None else pixels_of(y)), kept


def _whole(out: Passed | None) -> Tensor:
    """What a convolution made and its bias [B, T, H, W, C]."""
    assert out is not None, "a causal convolution makes a frame of each"
    return ops.clip_sum(out.take())


def _left(waiting: Tensor | None, total: Tensor | None, out: Passed | None) -> Tensor | None:
    """What still waits for its convolution, copied."""
    assert total is not None, "it was asked for"
    made = 0 if out is None else out.frames
    old = 0 if waiting is None else waiting.shape[1]
    parts = [total[:, max(0, made - old) :]]
    if waiting is not None:
        parts.insert(0, waiting[:, made:])
    left = torch.cat(parts, dim=1)
    return left if left.shape[1] else None


def _to_depth(x: Tensor, factor: Factor) -> Tensor:
    """[B, a T, b H, c W, C] -> [B, T, H, W, C a b c], as `space_to_depth`."""
    a, b, c = factor
    x = x.unflatten(3, (-1, c)).unflatten(2, (-1, b)).unflatten(1, (-1, a))
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4)


def _one_by_one(x: Tensor, neighbours: int) -> Tensor:
    """The neighbours that a position becomes side by side [C p, ...] -> one after the other [p C, ...]."""
    return x.unflatten(0, (-1, neighbours)).transpose(0, 1).flatten(0, 1)
