"""The weights of the VAE's layers as the fused layers want them: made for one run, so they can't be stale.

Pictures have their channels last; convolutions get no bias, because the pass behind them adds it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from .layers import RMSNorm

Weights: TypeAlias = tuple[Tensor, Tensor | None]
# lends the weight (of a norm its gamma) and the bias that a layer would compute with, as a host casts them
WeightsOf: TypeAlias = Callable[[nn.Module, Tensor], AbstractContextManager[Weights]]


def layer_weights(layer: nn.Module, like: Tensor) -> AbstractContextManager[Weights]:
    """Those of a plain layer."""
    weight = layer.gamma if isinstance(layer, RMSNorm) else layer.weight
    return nullcontext((cast(Tensor, weight), cast("Tensor | None", getattr(layer, "bias", None))))


def runs_as_written(network: nn.Module, of_host: bool = False, border: str = "zeros") -> bool:
    """Whether no layer was changed by hooks, a replaced forward, a foreign class (such as a quantised layer)
    or another border than its own: then its weights say all. The classes of a host are its own.

    Pictures that repeat without a seam are made with other borders, for example.
    """
    return not any(
        part._forward_hooks
        or part._forward_pre_hooks
        or vars(part).keys() & {"forward", "_conv_forward"}
        or getattr(part, "padding_mode", border) != border
        or not (of_host or type(part).__module__.startswith((f"{__package__}.", "torch.nn.modules.")))
        for part in network.modules()
    )


def needs_plain(network: nn.Module, x: Tensor) -> bool:
    """Whether a run on x needs gradients, which kernels lack, or autocast, which GEMMs with `out` ignore."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return True
    return torch.is_grad_enabled() and (
        x.requires_grad or any(parameter.requires_grad for parameter in network.parameters())
    )


def channels_last(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, T, H, W, C]."""
    return x.permute(0, 2, 3, 4, 1)


def channels_first(x: Tensor) -> Tensor:
    """[B, T, H, W, C] -> [B, C, T, H, W]."""
    return x.permute(0, 4, 1, 2, 3)


def per_picture(weight: Tensor, x: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """A convolution on every picture of x [B, T, H, W, C] -> [B, T, H', W', C']."""
    y = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight, stride=stride, padding=padding)
    return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class Lender:
    """Copies the weights that a host lends."""

    def __init__(self, weights_of: WeightsOf, device: torch.device, dtype: torch.dtype) -> None:
        self._weights_of, self._like = weights_of, torch.empty(0, device=device, dtype=dtype)

    def weights(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution."""
        with self._weights_of(layer, self._like) as (weight, bias):
            assert bias is not None, "every convolution of the original has one"
            return weight.to(self._like, copy=True), bias.to(self._like, copy=True)

    def gamma(self, norm: nn.Module) -> Tensor:
        """[C] of a norm."""
        with self._weights_of(norm, self._like) as (gamma, _):
            return gamma.flatten().to(self._like, copy=True)

    def matrix(self, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Weight [C', C] and bias of a convolution over single positions."""
        weight, bias = self.weights(layer)
        return weight.flatten(1), bias


def video_weight(weight: Tensor) -> Tensor:
    """[C', C, 3, 3, 3], channels last."""
    return weight.contiguous(memory_format=torch.channels_last_3d)


def stacked_weight(weight: Tensor) -> Tensor:
    """[C', C, 3, 3, 3] -> [C', 3 C, 3, 3] for pictures of three time steps' channels."""
    return picture_weight(weight.transpose(1, 2).flatten(1, 2))


def paired_weights(weight: Tensor) -> list[Tensor]:
    """[C', C, 3, 3, 3] -> four [C', C, 3, 3] for sums and differences of pairs; the last is a tap's own."""
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return [picture_weight(taps.to(weight.dtype)) for taps in ops.paired_taps(*wide.unbind(2))]


def picture_weight(weight: Tensor) -> Tensor:
    """[C', C, k, k], channels last."""
    return weight.contiguous(memory_format=torch.channels_last)


def subpixel_weight(weight: Tensor) -> Tensor:
    """[C', C, 3, 3] -> [4 C', C, 2, 2], which does on a picture what `weight` does on its repeated pixels.

    Of three neighbours two are repetitions of one pixel, so their taps are added. See `unshuffled` of
    kernels/causal_frames.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    columns = _merged(wide, 3)  # [2 (b), C', C, 3, 2]
    groups = _merged(columns, 3)  # [2 (a), 2 (b), C', C, 2, 2]
    return picture_weight(groups.flatten(0, 2).to(weight.dtype))


def _merged(taps: Tensor, axis: int) -> Tensor:
    """Three taps on an axis -> two for each half of a pixel, on a new first axis."""
    before, middle, after = taps.unbind(axis)
    return torch.stack(
        (torch.stack((before, middle + after), axis), torch.stack((before + middle, after), axis))
    )


def time_weight(weight: Tensor) -> Tensor:
    """[C', C, 3, 1, 1] -> [C', 3 C] for positions of three time steps' channels."""
    return weight[..., 0, 0].transpose(1, 2).flatten(1)


def tap_weight(weight: Tensor) -> Tensor:
    """[C', C, 3, 3, 3] -> a row [C] for every tap and channel: [27 C', C]."""
    return weight.permute(2, 3, 4, 0, 1).flatten(0, 3)
