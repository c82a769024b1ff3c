"""Encoder or decoder on the fused layers, for one run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .fused_layers import (
    FUSED,
    FusedColours,
    FusedDoubleSpace,
    FusedHalveSpace,
    FusedInput,
    FusedLayer,
    FusedMoments,
    Passage,
)
from .fused_weights import Lender, WeightsOf, channels_first, channels_last
from .layers import Cache, CausalNetwork, DoubleTimeAndSpace, HalveSpace, HalveSpaceAndTime
from .ops import Parts

Run: TypeAlias = Callable[[Sequence[FusedLayer], Passage], None]

STEPS = 4  # frames of a latent frame
# time steps that go through the layers of the finest level together, where one is larger than all else;
# four are as fast, and need a gigabyte more (docs/log.md)
FINEST_AT_ONCE = 2


class FusedNetwork:
    """Computes what a CausalNetwork does, from copies of its weights. Their caches are exchangeable."""

    def __init__(
        self, network: CausalNetwork, weights_of: WeightsOf, device: torch.device, dtype: torch.dtype
    ) -> None:
        lender = Lender(weights_of, device, dtype)
        self._check_fits = network.check_fits
        encodes = any(isinstance(layer, HalveSpace) for layer in network.body())
        steps = STEPS if encodes else 1  # of a call, at the layer
        layers: list[FusedLayer] = [FusedInput(network.conv1, lender, steps)]
        for layer in network.body():
            layers.append(FUSED[type(layer)](layer, lender, steps))
            if isinstance(layer, HalveSpaceAndTime):
                steps //= 2
            elif isinstance(layer, DoubleTimeAndSpace):
                steps *= 2
        layers.append((FusedMoments if encodes else FusedColours)(network.head, lender, steps))
        self.stages = _stages(layers)

    def __call__(self, x: Tensor, cache: Cache | list[Tensor] | None) -> tuple[Tensor, Cache]:
        """As CausalNetwork.forward. A cache that is a list is emptied, and goes while the next grows."""
        if cache is not None:
            self._check_fits(cache, x)
        passage = Passage(Parts(channels_last(x)), deque(map(channels_last, cache or ())))
        if isinstance(cache, list):
            cache.clear()
        for layers, run in self.stages:
            run(layers, passage)
        return channels_first(passage.total()).contiguous(), tuple(map(channels_first, passage.kept))


def _stages(layers: list[FusedLayer]) -> tuple[tuple[list[FusedLayer], Run], ...]:
    """The finest level, first or last, apart from the others."""
    for place, layer in enumerate(layers):
        if type(layer) is FusedHalveSpace:
            return (layers[: place + 1], _run_in_pieces), (layers[place + 1 :], _run)
        if type(layer) is FusedDoubleSpace:
            return (layers[:place], _run), (layers[place:], _run_in_pieces)
    raise AssertionError("every VAE has a finest level")


def _run(layers: Sequence[FusedLayer], passage: Passage) -> None:
    for layer in layers:
        layer(passage)


def _run_in_pieces(layers: Sequence[FusedLayer], passage: Passage) -> None:
    """The same, a few time steps after the other."""
    outs: list[Tensor] = []
    past = passage.past
    for piece in passage.total().split(FINEST_AT_ONCE, dim=1):
        part = Passage(Parts(piece), past)
        _run(layers, part)
        outs.append(part.total())
        past = deque(part.kept)
    passage.kept += past
    passage.put(Parts(torch.cat(outs, dim=1)))
