"""Latents to frames as they are ready, at constant memory: a history scene by scene, or one clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn

from ..callbacks import Callbacks, Progress
from ..config import VAESpec
from ..errors import ChunkError, InputError
from ..shapes import Compression
from ..vae.statistics import to_vae_space
from ..vae.tiling import Tiling
from .state import Chunk, StreamState


class Decoder(Protocol):
    """`WanVAE` or a host's VAE. Takes a clip's latents in pieces, yields frames as soon as they are known."""

    def decode_stream(
        self, pieces: Iterable[Tensor], *, tiling: Tiling | None = None
    ) -> Iterator[Tensor]: ...


def check_first_chunk(state: StreamState, from_chunk: int) -> None:
    """Raises InputError unless the stream has a chunk of this number (counted from 0)."""
    if not state.history:
        raise InputError("There is nothing to decode: this stream is empty. Sample a chunk first.")
    if not 0 <= from_chunk < len(state.history):
        raise InputError(
            f"Decoding was to begin at chunk {from_chunk}, but this stream has {len(state.history)} (counted "
            f"from 0). Choose 0 to {len(state.history) - 1}."
        )


@torch.no_grad()
def decode_history(
    vae: Decoder,
    state: StreamState,
    *,
    from_chunk: int = 0,
    tiling: Tiling | None = None,
    callbacks: Callbacks | None = None,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """Frames [B, 3, n, H, W] in [-1, 1] of the chunks from number `from_chunk` (counted from 0) on.

    Earlier chunks of the same scene are decoded too, and their frames dropped: the decoder's causal cache
    reaches back to the scene's first frame. So the frames are those of one decode of the whole. `device` is
    where the VAE computes, if its parameters are elsewhere.
    """
    check_first_chunk(state, from_chunk)
    device, rules = _device_of(vae) if device is None else device, state.identity.rules
    numbered = list(enumerate(state.history))
    for _, group in groupby(numbered, key=lambda item: item[1].scene):
        chunks = list(group)
        if chunks[-1][0] < from_chunk:
            continue
        scene = _Scene(chunks, from_chunk, len(numbered), rules.compression)
        pieces = _Pieces(
            lambda chunks=chunks: (to_vae_space(chunk.latents.to(device), rules.vae) for _, chunk in chunks)
        )
        yield from scene.frames(vae.decode_stream(pieces, tiling=tiling), callbacks or Callbacks())


class _Pieces:
    """Pieces made one at a time and not kept: when a decoder starts over, they are made again."""

    def __init__(self, make: Callable[[], Iterator[Tensor]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Tensor]:
        return self._make()


def _device_of(vae: Decoder) -> torch.device:
    assert isinstance(vae, nn.Module), "a host's decoder comes with its device"
    return next(vae.parameters()).device


class _Scene:
    """Where a decoder is in the chunks of one scene, in frames."""

    def __init__(
        self, chunks: list[tuple[int, Chunk]], from_chunk: int, total: int, compression: Compression
    ) -> None:
        # for each latent frame: its chunk's number, its place in the chunk, the chunk's length
        self.places = [(number, step + 1, c.length) for number, c in chunks for step in range(c.length)]
        # in frames
        self.dropped = compression.frames(sum(c.length for number, c in chunks if number < from_chunk))
        self.total, self.compression, self.made = total, compression, 0

    def frames(self, decoded: Iterator[Tensor], callbacks: Callbacks) -> Iterator[Tensor]:
        """The decoded frames that are wanted. Each piece can be cancelled before, and is reported after."""
        while (done := self.compression.latent_frames_of(self.made)) < len(self.places):
            number, _, _ = self.places[done]
            where = f"chunk {number + 1} of {self.total}"
            callbacks.check(f"while {where} was decoded")
            pixels = next(decoded)
            if not bool(torch.isfinite(pixels).all()):
                raise ChunkError(
                    f"The VAE returned NaN or Inf in {where}; the frames before it are kept. "
                    "Try it in float32 or bfloat16, or copy its file again."
                )
            skip = max(0, self.dropped - self.made)
            self.made += pixels.shape[2]
            number, step, length = self.places[self.compression.latent_frames_of(self.made) - 1]
            callbacks.progress(Progress(number + 1, self.total, step, length, None))
            if skip < pixels.shape[2]:
                yield pixels[:, :, skip:]


@torch.no_grad()
def decode_clip(
    vae: Decoder,
    latents: Tensor,
    spec: VAESpec,
    *,
    callbacks: Callbacks | None = None,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """Frames [B, 3, n, H, W] in [-1, 1] of a clip's VAE-space latents [B, C, F, H, W], as they are ready."""
    callbacks, made = callbacks or Callbacks(), 0
    pieces = _Pieces(lambda: (piece.to(device or latents.device) for piece in latents.split(1, dim=2)))
    decoded = vae.decode_stream(pieces)
    compression = Compression(spec.time_stride, spec.space_stride, patch=1)
    while made < compression.frames(latents.shape[2]):
        callbacks.check(f"after {made} frames were decoded")
        pixels = next(decoded)
        made += pixels.shape[2]
        callbacks.progress(Progress(1, 1, compression.latent_frames_of(made), latents.shape[2], None))
        yield pixels


def first_chunk_of(state: StreamState, latents: Tensor) -> int:
    """The number of the first chunk in a sampler's `latents` [B, C, F, H, W] (VAE space) and `state`.

    Raises InputError if the latents aren't the end of this state's history.
    """
    length, first = 0, len(state.history)
    while first > 0 and length < latents.shape[2]:
        first -= 1
        length += state.history[first].length
    same = length == latents.shape[2]
    if same:
        vae = state.identity.rules.vae
        ending = torch.cat([to_vae_space(chunk.latents, vae) for chunk in state.history[first:]], dim=2)
        same = ending.shape == latents.shape and torch.equal(ending, latents.to(ending))
    if not same:
        raise InputError(
            f"These latents ({latents.shape[2]} latent frames) are not the end of this state's history "
            f"({len(state.history)} chunks). Connect the latent and the state of one and the same sampler, "
            "or leave the state unconnected."
        )
    return first
