"""The LTX VAE's encoder or decoder on the fused layers, for one run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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

# frames of the decoder that go through a layer together, at most, and latent frames that begin together: two
# need less memory, eight have fewer passes (docs/log.md)
AT_ONCE = 4

FUSED = {ResBlock: FusedResBlock, Up: FusedUp, Down: FusedDown}


def fused_stages(
    network: Encoder | Decoder, weights_of: WeightsOf, device: torch.device, dtype: torch.dtype
) -> list[Stage]:
    """What `network.stages()` computes, from copies of its weights."""
    *plain, last = network.stages()
    *layers, head = _layers(network, Lender(weights_of, device, dtype))
    frames = [AT_ONCE if isinstance(network, Decoder) else stage.frames for stage in plain]
    stages = [Stage(layer, most, Passed.divided) for layer, most in zip(layers, frames, strict=True)]
    if isinstance(network, Decoder) and not network.conv_in.causal:
        stages.insert(0, Stage(_gathered, AT_ONCE))
    return [*stages, last._replace(run=head)]


def _gathered(x: Tensor, waiting: Tensor | None, last: bool) -> tuple[Tensor | None, Tensor | None]:
    """Latent frames together, as nothing is shown before many of them: one doesn't fill a GPU."""
    line = x.clone() if waiting is None else torch.cat((waiting, x), dim=2)
    return (line, None) if last or line.shape[2] >= AT_ONCE else (None, line)


def _layers(network: Encoder | Decoder, lender: Lender) -> Iterator[Run]:
    encodes = isinstance(network, Encoder)
    yield (FusedPatches if encodes else FusedInput)(network.conv_in, lender)
    for layer in layers_of(network.down_blocks if encodes else network.up_blocks):
        yield FUSED[type(layer)](layer, lender)
    yield (FusedMoments if encodes else FusedColours)(network.conv_out, lender)
