"""Latents to frames: a story scene by scene, or one clip; as the frames are ready, at constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from ..callbacks import Host, Progress
from ..errors import ChunkError, InputError
from ..vae.tiling import Tiling
from ..vae.wan_vae import WanVAE, to_vae_space
from .state import Chunk, StreamState


class Decoder(Protocol):
    """`WanVAE`, or a host's own VAE: pieces of one clip's latents in, its frames out as soon as they are known."""

    def decode_stream(
        self, pieces: Iterable[Tensor], *, tiling: Tiling | None = None
    ) -> Iterator[Tensor]: ...


@torch.no_grad()
def decode_story(
    vae: Decoder,
    state: StreamState,
    *,
    from_chunk: int = 0,
    tiling: Tiling | None = None,
    host: Host | None = None,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """Frames [B, 3, n, H, W] in [-1, 1] of the chunks from number `from_chunk` (counted from 0) on.

    Earlier chunks of the same scene go through the decoder too, because its causal cache reaches back to the scene's
    first frame; their frames are dropped. So a continued chunk gives the same frames as one decode of the whole.
    `device` is where the VAE computes, if that is not where its parameters lie.
    """
    if not state.story:
        raise InputError("There is nothing to decode: this stream is empty. Sample a chunk first.")
    if not 0 <= from_chunk < len(state.story):
        raise InputError(
            f"Decoding was to begin at chunk {from_chunk}, but this stream has {len(state.story)} (counted from 0). "
            f"Choose 0 to {len(state.story) - 1}."
        )
    device = _device_of(vae) if device is None else device
    numbered = list(enumerate(state.story))
    for _, group in groupby(numbered, key=lambda item: item[1].scene):
        chunks = list(group)
        if chunks[-1][0] < from_chunk:
            continue
        scene = _Scene(chunks, from_chunk, len(numbered), state.identity.rules.compression.time)
        pieces = _Pieces(
            lambda chunks=chunks: (to_vae_space(chunk.latents.to(device)) for _, chunk in chunks)
        )
        yield from scene.frames(vae.decode_stream(pieces, tiling=tiling), host or Host())


class _Pieces:
    """Pieces made one at a time, and made again when a decoder has to begin again: none is kept."""

    def __init__(self, make: Callable[[], Iterator[Tensor]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Tensor]:
        return self._make()


def _device_of(vae: Decoder) -> torch.device:
    assert isinstance(vae, WanVAE), "a host's decoder comes with its device"
    return next(vae.parameters()).device


class _Scene:
    """Where a decoder is in the chunks of one scene, counted in frames."""

    def __init__(self, chunks: list[tuple[int, Chunk]], from_chunk: int, total: int, stride: int) -> None:
        # for every latent frame: the number of its chunk, its place in the chunk, the chunk's length
        self.places = [(number, step + 1, c.length) for number, c in chunks for step in range(c.length)]
        dropped = sum(chunk.length for number, chunk in chunks if number < from_chunk)
        self.dropped = max(0, (dropped - 1) * stride + 1)  # frames
        self.total, self.stride, self.made = total, stride, 0

    def frames(self, decoded: Iterator[Tensor], host: Host) -> Iterator[Tensor]:
        """What is decoded, from the first wanted frame on; the host is asked before every piece and told after it."""
        while self._latent_frames < len(self.places):
            number, _, _ = self.places[self._latent_frames]
            where = f"chunk {number + 1} of {self.total}"
            host.check(f"while {where} was decoded")
            pixels = next(decoded)
            if not bool(torch.isfinite(pixels).all()):
                raise ChunkError(
                    f"The VAE returned values that are not numbers in {where}; the frames before it are kept. Try it in "
                    "float32 or bfloat16, or copy its file again."
                )
            skip = max(0, self.dropped - self.made)
            self.made += pixels.shape[2]
            number, step, length = self.places[self._latent_frames - 1]
            host.progress(Progress(number + 1, self.total, step, length, None))
            if skip < pixels.shape[2]:
                yield pixels[:, :, skip:]

    @property
    def _latent_frames(self) -> int:
        """Latent frames that the frames made so far are of."""
        return 0 if not self.made else (self.made - 1) // self.stride + 1


@torch.no_grad()
def decode_clip(
    vae: Decoder,
    latents: Tensor,
    *,
    stride: int = 4,
    host: Host | None = None,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """Frames [B, 3, n, H, W] in [-1, 1] of one clip's latents [B, C, F, H, W] in VAE space, as they are ready."""
    host, made = host or Host(), 0
    pieces = _Pieces(lambda: (piece.to(device or latents.device) for piece in latents.split(1, dim=2)))
    decoded = vae.decode_stream(pieces)
    while made < (latents.shape[2] - 1) * stride + 1:
        host.check(f"after {made} frames were decoded")
        pixels = next(decoded)
        made += pixels.shape[2]
        host.progress(Progress(1, 1, (made - 1) // stride + 1, latents.shape[2], None))
        yield pixels


def chunks_of(state: StreamState, latents: Tensor) -> int:
    """The number of the first chunk that `latents` [B, C, F, H, W] (VAE space) hold, which left a sampler with `state`.

    Raises InputError when the latents are not the end of this state's story.
    """
    length, first = 0, len(state.story)
    while first > 0 and length < latents.shape[2]:
        first -= 1
        length += state.story[first].length
    same = length == latents.shape[2]
    if same:
        told = torch.cat([to_vae_space(chunk.latents) for chunk in state.story[first:]], dim=2)
        same = told.shape == latents.shape and torch.equal(told, latents.to(told))
    if not same:
        raise InputError(
            f"These latents ({latents.shape[2]} latent frames) are not the end of this state's story "
            f"({len(state.story)} chunks). Connect the latent and the state of one and the same sampler, or leave the state "
            "unconnected."
        )
    return first
