"""How far back a decoder looks: from where it has to begin, to show a later frame with the same bits.

A decoder is a row of layers, some of which look back at their own inputs of earlier time steps, and some of
which make several time steps of one. None of them sees its own output again, so what a decoder knows of the
past is finite. If it begins in mid-clip, the first time steps behind each layer differ from those of the
whole clip; behind the last layer, these are what it has to decode in vain.

A symmetric decoder looks ahead, too: its last frames before where somebody stops are those of a clip that
ends there. Whoever decodes to the end of a scene isn't concerned.

That the bits are equal, too, takes convolutions that compute each time step from its own three, as oneDNN,
our kernels and implicit GEMMs do; one by FFT over time would not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .layers import HISTORY, DoubleTimeAndSpace
from .ltx_layers import ResBlock
from .ltx_network import layers_of
from .ltx_vae import LtxVAE
from .tiny_decoder import Grow, MemoryBlock, TinyDecoder
from .wan_vae import WanVAE


class _Layer(NamedTuple):
    back: int  # how many time steps it looks back
    growth: int = 1  # how many time steps it makes of one, after that


def decoder_reach(vae: object) -> int | None:
    """How many latent frames before it a decoded latent frame depends on; None for an unknown decoder.

    Whoever begins at least that many latent frames earlier, within the scene, gets the frames of the whole
    scene bit for bit, with or without tiles. What begins isn't a clip's first latent frame then, but is
    decoded as one: it gives one frame.
    """
    if isinstance(vae, WanVAE):
        return _reach(_wan_layers(vae))
    if isinstance(vae, LtxVAE):
        return _reach(_ltx_layers(vae))
    if isinstance(vae, TinyDecoder):
        return _reach(_tiny_layers(vae))
    return None


def _reach(layers: Iterable[_Layer]) -> int:
    """From the first time step that is right, behind the last layer, to whole latent frames."""
    wrong, steps = 0, 1  # time steps behind the layers so far: in all, and of one latent frame
    for layer in layers:
        wrong, steps = (wrong + layer.back) * layer.growth, steps * layer.growth
    return -(-wrong // steps)


def _wan_layers(vae: WanVAE) -> Iterator[_Layer]:
    """In front of every kept tensor lies a convolution over three time steps.

    The doubling of time leaves out a clip's first latent frame. That changes no more than its convolution
    would without the past, so it needs no word of its own.
    """
    yield _Layer(HISTORY)
    for layer in vae.decoder.body():
        yield _Layer(layer.slots * HISTORY, 2 if isinstance(layer, DoubleTimeAndSpace) else 1)
    yield _Layer(HISTORY)


def _ltx_layers(vae: LtxVAE) -> Iterator[_Layer]:
    """The frame that is left out behind a doubling of time shifts all later ones alike."""
    back = HISTORY if vae.config.causal else 1
    yield _Layer(back)
    for layer in layers_of(vae.decoder.up_blocks):
        yield _Layer(2 * back) if isinstance(layer, ResBlock) else _Layer(back, layer.growth)
    yield _Layer(back)


def _tiny_layers(decoder: TinyDecoder) -> Iterator[_Layer]:
    """A memory is a block's own input of the time step before, not what it made of it."""
    for layer in decoder.decoder:
        if isinstance(layer, MemoryBlock):
            yield _Layer(1)
        elif isinstance(layer, Grow):
            yield _Layer(0, layer.growth)
