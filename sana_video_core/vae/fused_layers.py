"""The layers of layers.py on the fused kernels: channels last, and fewer passes over memory.

Read layers.py first: this file computes the same, and tests compare the two. A layer leaves what its last
convolution made as `Parts`: the pass that reads them next adds bias and residual, norms, activates, and puts
the past in front.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from .fused_weights import (
    Lender,
    channels_first,
    channels_last,
    paired_weights,
    per_picture,
    picture_weight,
    stacked_weight,
    subpixel_weight,
    tap_weight,
    time_weight,
    video_weight,
)
from .layers import (
    CausalLayer,
    DoubleSpace,
    DoubleTimeAndSpace,
    HalveSpace,
    HalveSpaceAndTime,
    PictureAttention,
    ResidualBlock,
    rms_norm,
)
from .ops import Parts

FEW = 8  # channels, of which cuDNN takes three time steps' faster as those of one picture


class Passage:
    """What goes through the layers in one step. Whoever takes a tensor has the only reference to it, so that
    it can go as soon as it was read: activations and pasts are what fills the memory.
    """

    def __init__(self, parts: Parts, past: deque[Tensor]) -> None:
        """`past` [B, n, H, W, C] of the layers that have one, in order; empty at the start of a clip."""
        self._parts: Parts | None = parts
        self.past = past
        self.kept: list[Tensor] = []  # for the next step

    def take(self) -> Parts:
        parts, self._parts = self._parts, None
        assert parts is not None, "the layer before left something"
        return parts

    def put(self, parts: Parts) -> None:
        self._parts = parts

    def take_past(self) -> Tensor | None:
        return self.past.popleft() if self.past else None

    def total(self) -> Tensor:
        """Takes the parts, and adds them: [B, T, H, W, C]."""
        parts = self.take()
        whole = parts.bias is None and parts.residual is None and not parts.subpixels
        return parts.x if whole and isinstance(parts.x, Tensor) else ops.summed(parts)


class FusedLayer:
    """`forward` of a layer of layers.py, on what passes.

    A call brings `steps` time steps; the first of a clip brings one.
    """

    def __init__(self, layer: Any, lender: Lender, steps: int) -> None:
        raise NotImplementedError

    def __call__(self, passage: Passage) -> None:
        raise NotImplementedError


class CausalConv:
    """Norm and SiLU (if there is a norm) and a causal convolution, of one time step after the other."""

    def __init__(self, norm: nn.Module | None, conv: nn.Module, lender: Lender) -> None:
        self.gamma = None if norm is None else lender.gamma(norm)
        weight, self.bias = lender.weights(conv)
        self.stacked = weight.shape[1] <= FEW
        self.weight = (stacked_weight if self.stacked else video_weight)(weight)

    def __call__(self, passage: Passage, want_total: bool = False) -> Tensor | None:
        """Returns x' before the norm, if wanted."""
        parts = passage.take()
        total, seen, kept = ops.causal_frames(
            parts, passage.take_past(), self.gamma, stacked=self.stacked, want_total=want_total
        )
        del parts
        passage.kept.append(kept)
        if self.stacked:
            y = per_picture(self.weight, seen, padding=1)
        else:
            y = channels_last(F.conv3d(channels_first(seen), self.weight, padding=(0, 1, 1)))
        passage.put(Parts(y, self.bias))
        return total


class PairedConv:
    """The same for pairs of time steps; at the start of a clip, for its single first one."""

    def __init__(self, norm: nn.Module, conv: nn.Module, lender: Lender) -> None:
        self.gamma = lender.gamma(norm)
        weight, self.bias = lender.weights(conv)
        self.weights = paired_weights(weight)

    def __call__(self, passage: Passage, want_total: bool = False) -> Tensor | None:
        parts, past = passage.take(), passage.take_past()
        if past is None:
            total, seen, kept = ops.causal_frames(parts, None, self.gamma, want_total=want_total)
            # before it are zeros, so only the last tap counts
            y: Tensor | ops.Four = per_picture(self.weights[-1], seen[:, ops.HISTORY :], padding=1)
        else:
            total, seen, kept = ops.paired_frames(parts, past, self.gamma, want_total=want_total)
            del parts, past
            first, middle, crossed, last = (
                per_picture(weight, part, padding=1) for weight, part in zip(self.weights, seen, strict=True)
            )
            y = first, middle, crossed, last
        passage.kept.append(kept)
        passage.put(Parts(y, self.bias))
        return total


class FusedInput(FusedLayer):
    """The first convolution."""

    def __init__(self, layer: nn.Module, lender: Lender, steps: int) -> None:
        self.conv = CausalConv(None, layer, lender)

    def __call__(self, passage: Passage) -> None:
        self.conv(passage)


class FusedResidual(FusedLayer):
    def __init__(self, layer: ResidualBlock, lender: Lender, steps: int) -> None:
        norm, _, conv, second_norm, _, _, second_conv = layer.residual
        kind = CausalConv if steps == 1 else PairedConv
        self.first, self.second = kind(norm, conv, lender), kind(second_norm, second_conv, lender)
        self.shortcut = None if isinstance(layer.shortcut, nn.Identity) else lender.matrix(layer.shortcut)

    def __call__(self, passage: Passage) -> None:
        x = cast(Tensor, self.first(passage, want_total=True))
        self.second(passage)
        residual = x if self.shortcut is None else F.linear(x, *self.shortcut)
        passage.put(passage.take()._replace(residual=residual))


class FusedAttention(FusedLayer):
    def __init__(self, layer: PictureAttention, lender: Lender, steps: int) -> None:
        self.gamma = lender.gamma(layer.norm)
        self.to_qkv, (self.projection, self.bias) = lender.matrix(layer.to_qkv), lender.matrix(layer.proj)

    def __call__(self, passage: Passage) -> None:
        x = passage.total()
        h = rms_norm(x, self.gamma, axis=-1)
        tokens = F.linear(h, *self.to_qkv).flatten(2, 3).flatten(0, 1)  # [B * T, H * W, 3 C]
        tokens = tokens.unsqueeze(1)  # one head
        q, k, v = (part.contiguous() for part in tokens.chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v).view(x.shape)
        passage.put(Parts(F.linear(y, self.projection), self.bias, x))


class FusedHalveSpace(FusedLayer):
    def __init__(self, layer: HalveSpace, lender: Lender, steps: int) -> None:
        weight, self.bias = lender.weights(layer.resample[1])
        self.weight = picture_weight(weight)

    def __call__(self, passage: Passage) -> None:
        bordered = F.pad(passage.total(), (0, 0, 0, 1, 0, 1))  # right and bottom, as in layers.py
        passage.put(Parts(per_picture(self.weight, bordered, stride=2), self.bias))


class FusedHalveSpaceAndTime(FusedHalveSpace):
    def __init__(self, layer: HalveSpaceAndTime, lender: Lender, steps: int) -> None:
        super().__init__(layer, lender, steps)
        weight, self.time_bias = lender.weights(layer.time_conv)
        self.time_weight = time_weight(weight)

    def __call__(self, passage: Passage) -> None:
        super().__call__(passage)
        y, past = passage.total(), passage.take_past()
        passage.kept.append(y[:, -1:].clone())
        if past is None:
            passage.put(Parts(y))
            return
        seen = torch.cat((past, y), dim=1)  # [B, 1 + 2 m, H, W, C]
        three = torch.cat((seen[:, :-1:2], seen[:, 1::2], seen[:, 2::2]), dim=-1)
        passage.put(Parts(F.linear(three, self.time_weight), self.time_bias))


class FusedDoubleSpace(FusedLayer):
    def __init__(self, layer: DoubleSpace, lender: Lender, steps: int) -> None:
        weight, self.bias = lender.weights(layer.resample[1])
        self.weight = subpixel_weight(weight)

    def __call__(self, passage: Passage) -> None:
        passage.put(self.doubled(passage.total()))

    def doubled(self, x: Tensor) -> Parts:
        return Parts(per_picture(self.weight, x, padding=1), self.bias, subpixels=True)


class FusedDoubleTimeAndSpace(FusedDoubleSpace):
    def __init__(self, layer: DoubleTimeAndSpace, lender: Lender, steps: int) -> None:
        super().__init__(layer, lender, steps)
        weight, bias = lender.weights(layer.time_conv)
        # the time step that a step becomes first, and second
        self.halves = tuple(zip(time_weight(weight).chunk(2), bias.chunk(2), strict=True))

    def __call__(self, passage: Passage) -> None:
        past = passage.take_past()
        if past is None:
            # the first time step never enters the time convolution, not even as the past of the second
            x = passage.total()
            passage.kept.append(x.new_zeros(x.shape[0], ops.HISTORY, *x.shape[2:]))
            passage.put(self.doubled(x))
            return
        _, seen, kept = ops.causal_frames(passage.take(), past, None, stacked=True)
        passage.kept.append(kept)
        passage.put(self.doubled(self._twice(seen)))

    def _twice(self, seen: Tensor) -> Tensor:
        """The time convolution of seen [B, T, H, W, 3 C]: [B, 2 T, H, W, C]."""
        batch, steps, *size, stacked = seen.shape
        pictures = seen.new_empty(batch, 2 * steps, *size, stacked // 3)
        for clip, step in itertools.product(range(batch), range(steps)):
            for half, (weight, bias) in enumerate(self.halves):
                target = pictures[clip, 2 * step + half].flatten(0, 1)
                torch.addmm(bias, seen[clip, step].flatten(0, 1), weight.T, out=target)
        return pictures


class FusedColours(FusedLayer):
    """The decoder's head: norm, SiLU, and a convolution to three channels.

    cuDNN is slow at that. Here the products of all taps are one GEMM of positions, and their sum one pass.
    """

    def __init__(self, layer: nn.Sequential, lender: Lender, steps: int) -> None:
        norm, _, conv = layer
        self.gamma, (weight, self.bias) = lender.gamma(norm), lender.weights(conv)
        self.taps = tap_weight(weight)

    def __call__(self, passage: Passage) -> None:
        _, seen, kept = ops.causal_frames(passage.take(), passage.take_past(), self.gamma)
        passage.kept.append(kept)
        planes = torch.mm(self.taps, seen.flatten(0, 3).T)  # [27 C, B * (2 + T) * H * W]
        pixels = ops.sum_of_taps(planes.view(3, 3, 3, -1, *seen.shape[:4]), self.bias)
        passage.put(Parts(channels_last(pixels)))


class FusedMoments(FusedLayer):
    """The encoder's head."""

    def __init__(self, layer: nn.Sequential, lender: Lender, steps: int) -> None:
        norm, _, conv = layer
        self.conv = CausalConv(norm, conv, lender)

    def __call__(self, passage: Passage) -> None:
        self.conv(passage)


FUSED: dict[type[CausalLayer], type[FusedLayer]] = {
    ResidualBlock: FusedResidual,
    PictureAttention: FusedAttention,
    HalveSpace: FusedHalveSpace,
    HalveSpaceAndTime: FusedHalveSpaceAndTime,
    DoubleSpace: FusedDoubleSpace,
    DoubleTimeAndSpace: FusedDoubleTimeAndSpace,
}
