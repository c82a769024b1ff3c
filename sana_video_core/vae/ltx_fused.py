"""The LTX VAE's encoder or decoder on the fused layers, for one run."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..config import LTX_2
from .fused_weights import Lender, WeightsOf
from .ltx_fused_layers import (
    FusedColours,
    FusedDown,
    FusedInput,
    FusedMoments,
    FusedPatches,
    FusedResBlock,
    FusedUp,
    Passed,
)
from .ltx_layers import Down, ResBlock, Up
from .ltx_network import Decoder, Encoder, layers_of
from .ltx_stream import Run, Stage

# frames of the decoder that go through a layer together, at most: two are as exact and need less, eight have
# fewer passes; a finest frame's activations are an eighth of a gigabyte (docs/log.md)
AT_ONCE = 4

FUSED = {ResBlock: FusedResBlock, Up: FusedUp, Down: FusedDown}


def fused_stages(
    network: Encoder | Decoder, weights_of: WeightsOf, device: torch.device, dtype: torch.dtype
) -> list[Stage]:
    """What `network.stages()` computes, from copies of its weights."""
    most = AT_ONCE if isinstance(network, Decoder) else LTX_2.time_stride  # of which the encoder makes one
    *plain, last = network.stages()
    *layers, head = _layers(network, Lender(weights_of, device, dtype))
    stages = [
        Stage(layer, min(stage.frames, most), Passed.divided)
        for layer, stage in zip(layers, plain, strict=True)
    ]
    return [*stages, last._replace(run=head)]


def _layers(network: Encoder | Decoder, lender: Lender) -> Iterator[Run]:
    encodes = isinstance(network, Encoder)
    yield (FusedPatches if encodes else FusedInput)(network.conv_in, lender)
    for layer in layers_of(network.down_blocks if encodes else network.up_blocks):
        yield FUSED[type(layer)](layer, lender)
    yield (FusedMoments if encodes else FusedColours)(network.conv_out, lender)
