"""Latents to frames as they are ready, at constant memory: a history scene by scene, or one clip."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from ..callbacks import Callbacks, Progress
from ..config import Family, VAESpec
from ..errors import ChunkError, InputError
from ..files.transfer import Transfer, one_behind
from ..shapes import Compression
from ..vae.reach import decoder_reach
from ..vae.statistics import to_vae_space
from ..vae.tiling import Tiling
from .state import Chunk, Story

# what becomes of frames [B, 3, n, H, W] on the device, before they are copied to the CPU
Form: TypeAlias = Callable[[Tensor], Tensor]


class Decoder(Protocol):
    """Takes a clip's latents in pieces, yields frames as soon as they are known."""

    def decode_stream(
        self, pieces: Iterable[Tensor], *, tiling: Tiling | None = None
    ) -> Iterator[Tensor]: ...


def check_first_chunk(state: Story, from_chunk: int) -> None:
    """Raises InputError unless the stream has a chunk of this number (counted from 0)."""
    if not state.history:
        raise InputError("There is nothing to decode: this stream is empty. Sample a chunk first.")
    if not 0 <= from_chunk < len(state.history):
        raise InputError(
            f"Decoding was to begin at chunk {from_chunk}, but this stream has {len(state.history)} (counted "
            f"from 0). Choose 0 to {len(state.history) - 1}."
        )


def first_needed(history: Sequence[Chunk], from_chunk: int, reach: int | None) -> int:
    """The number of the chunk at which decoding has to begin, to show those from `from_chunk` on.

    It is the last one that lies `reach` latent frames before them, or the first one of their scene; of an
    unknown reach (None) the first.
    """
    first, back = from_chunk, 0
    while first and history[first - 1].scene == history[from_chunk].scene and (reach is None or back < reach):
        first -= 1
        back += history[first].length
    return first


def decode_history(
    vae: Decoder,
    state: Story,
    *,
    from_chunk: int = 0,
    form: Form | None = None,
    tiling: Tiling | None = None,
    callbacks: Callbacks | None = None,
    device: torch.device | None = None,
    reach: int | None = None,
) -> Iterator[Tensor]:
    """Frames [B, 3, n, H, W] in [-1, 1] of the chunks from number `from_chunk` (counted from 0) on.

    Earlier chunks of the same scene are decoded too, as far as the VAE looks back, and their frames dropped.
    So the frames are those of one decode of the whole. With a `form`, what it makes of them comes instead, on
    the CPU. `device` is where the VAE computes, if its parameters are elsewhere, and `reach` its
    decoder_reach, if it is a host's. Raises ChunkError for NaN; the frames before it came.
    """
    check_first_chunk(state, from_chunk)
    reach, total = decoder_reach(vae) if reach is None else reach, len(state.history)
    first = first_needed(state.history, from_chunk, reach)
    yield from decode_chunks(
        vae,
        zip(range(first, total), state.history[first:], strict=True),
        state.identity.rules,
        shown=range(from_chunk, total),
        total=total,
        form=form,
        tiling=tiling,
        callbacks=callbacks,
        device=device,
    )


@torch.no_grad()
def decode_chunks(
    vae: Decoder,
    chunks: Iterable[tuple[int, Chunk]],
    rules: Family,
    *,
    shown: Container[int],
    total: int,
    form: Form | None = None,
    tiling: Tiling | None = None,
    callbacks: Callbacks | None = None,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """As decode_history, for numbered chunks that may still be coming: they are taken as they are needed.

    Frames of chunks that aren't in `shown` are dropped. All of a chunk have come before the next one is
    waited for. `total` is how many chunks the stream will have, for words.
    """
    device, callbacks = _device_of(vae) if device is None else device, callbacks or Callbacks()

    def pieces() -> Iterator[_Piece | None]:
        for _, group in groupby(chunks, key=lambda item: item[1].scene):
            scene = _Scene(group, shown, total, rules.compression)
            latents = _Pieces(
                lambda scene=scene: (to_vae_space(part.to(device), rules.vae) for part in scene.latents())
            )
            yield from scene.decoded(vae.decode_stream(latents, tiling=tiling), callbacks)

    yield from _checked(pieces(), form)


class _Piece(NamedTuple):
    """Frames as they leave a decoder; the device may still be working on them."""

    pixels: Tensor
    place: str  # for words


def _checked(pieces: Iterable[_Piece | None], form: Form | None) -> Iterator[Tensor]:
    """The pieces, or what `form` makes of them, on the CPU. Raises ChunkError for NaN or Inf.

    While one is checked and copied, the next is decoded: nothing waits for the device, except at a None.
    """
    sent = (
        piece and (piece.pixels, piece.place, Transfer(
            form(piece.pixels) if form else piece.pixels.new_empty(0), piece.pixels.isfinite().all()
        ))
        for piece in pieces
    )  # fmt: skip
    for pixels, place, transfer in one_behind(sent):
        values, finite = transfer.arrived()
        if not finite:
            raise ChunkError(
                f"The VAE returned NaN or Inf in {place}; the frames before it are kept. "
                "Try it in float32 or bfloat16, or copy its file again."
            )
        yield values if form else pixels


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
    """Where a decoder is in the chunks of one scene, in frames. The next chunks may still be coming."""

    def __init__(
        self, coming: Iterator[tuple[int, Chunk]], shown: Container[int], total: int, compression: Compression
    ) -> None:
        self.coming, self.known = coming, list[Chunk]()
        # for each latent frame: its chunk's number, its place in the chunk, the chunk's length
        self.places: list[tuple[int, int, int]] = []
        self.shown, self.total, self.compression, self.made = shown, total, compression, 0

    def latents(self) -> Iterator[Tensor]:
        """Of each chunk, from the first one on."""
        place = 0
        while place < len(self.known) or self._take():
            yield self.known[place].latents
            place += 1

    def _take(self) -> bool:
        """Wait for the next chunk; False if the scene is over."""
        for number, chunk in self.coming:
            self.known.append(chunk)
            self.places += [(number, step + 1, chunk.length) for step in range(chunk.length)]
            return True
        return False

    def decoded(self, frames: Iterator[Tensor], callbacks: Callbacks) -> Iterator[_Piece | None]:
        """The decoded frames that are wanted. Each piece can be cancelled before, and is reported after.

        None comes before the next chunk is waited for.
        """
        while True:
            if (done := self.compression.latent_frames_of(self.made)) >= len(self.places):
                yield None
                if not self._take():
                    return
            place = f"chunk {self.places[done][0] + 1} of {self.total}"
            callbacks.check(f"while {place} was decoded")
            pixels, before = next(frames), self.made
            self.made += pixels.shape[2]
            number, step, length = self.places[self.compression.latent_frames_of(self.made) - 1]
            callbacks.progress(Progress(number + 1, self.total, step, length, None))
            yield from (_Piece(pixels[:, :, part], place) for part in self._wanted(before))

    def _wanted(self, before: int) -> Iterator[slice]:
        """What is shown of the frames that came after so many; mostly they are one latent frame's."""
        first, end = map(self.compression.latent_frames_of, (before, self.made))
        for shown, group in groupby(range(first, end), lambda latent: self.places[latent][0] in self.shown):
            latents = list(group)
            borders = (self.compression.frames(latents[0]), self.compression.frames(latents[-1] + 1))
            if shown:
                yield slice(*(max(0, border - before) for border in borders))


@torch.no_grad()
def decode_clip(
    vae: Decoder,
    latents: Tensor,
    spec: VAESpec,
    *,
    form: Form | None = None,
    tiling: Tiling | None = None,
    callbacks: Callbacks | None = None,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """Frames [B, 3, n, H, W] in [-1, 1] of a clip's VAE-space latents [B, C, F, H, W], as they are ready.

    With a `form`, what it makes of them. Raises ChunkError for NaN; the frames before it came.
    """
    callbacks, compression = callbacks or Callbacks(), Compression(spec.time_stride, spec.space_stride, 1)
    work = _Clip(latents, compression, callbacks, device or latents.device)
    yield from _checked(work.decoded(vae.decode_stream(_Pieces(work.taken), tiling=tiling)), form)


class _Clip:
    """How far a decoder is with a clip.

    Taking a latent frame and giving its frames count half each: who looks ahead takes many before it gives.
    """

    def __init__(
        self, latents: Tensor, compression: Compression, callbacks: Callbacks, device: torch.device
    ) -> None:
        self._latents, self._compression, self._device = latents, compression, device
        self._callbacks, self._took, self._made, self._said = callbacks, 0, 0, 0

    def taken(self) -> Iterator[Tensor]:
        """The latent frames [B, C, 1, H, W], from the first one on."""
        for number, latent in enumerate(self._latents.split(1, dim=2)):
            if number != self._compression.latent_frames_of(self._made):
                self._go_on()
            self._took = number + 1
            yield latent.to(self._device)

    def decoded(self, frames: Iterator[Tensor]) -> Iterator[_Piece]:
        """The frames as they come. Each piece can be cancelled before, and is reported after."""
        while self._made < self._compression.frames(self._latents.shape[2]):
            self._go_on()
            pixels, place = next(frames), f"what follows frame {self._made}"
            self._made += pixels.shape[2]
            self._report()
            yield _Piece(pixels, place)

    def _go_on(self) -> None:
        self._callbacks.check(f"after {self._made} frames were decoded")
        self._report()

    def _report(self) -> None:
        done = (self._took + self._compression.latent_frames_of(self._made)) // 2
        if done > self._said:
            self._said = done
            self._callbacks.progress(Progress(1, 1, done, self._latents.shape[2], None))


def first_chunk_of(state: Story, latents: Tensor) -> int:
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
