"""A film's chunks to frames, while others are sampled or in turn with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..callbacks import Callbacks
from ..config import Family
from ..cuda_streams import cuda_devices, own_streams
from ..errors import Cancelled
from ..files.background import PIECES, TICK, Worker
from ..files.image_file import frame_bytes
from ..streaming.decoding import Decoder, decode_chunks
from ..streaming.pipeline import ROOM
from ..streaming.state import Chunk
from ..vae.tiling import Tiling
from .reel import Reel


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Where and how chunks are decoded."""

    decoder: Decoder
    device: torch.device
    # beside the sampling, or in turn with it? Asked once a chunk was sampled; if so, it places both
    overlap: Callable[[], bool]
    tiling: Tiling | None = None
    reach: int | None = None  # latent frames that decide a frame; None: all of its scene
    # what a host does before the other of the two works, if they take turns
    to_sample: Callable[[], object] = lambda: None
    to_decode: Callable[[], object] = lambda: None
    inside: Callable[[], AbstractContextManager[Any]] = nullcontext  # around all decoding, in its thread


def needed_chunks(
    scenes: Sequence[int], lengths: Sequence[int], shown: Container[int], reach: int | None
) -> frozenset[int]:
    """The numbers of the chunks that have to be decoded to show some of them.

    In each scene these are the chunks from the first to the last shown, and before them as many as can have
    an influence: `reach` latent frames, or with None all of the scene.
    """
    needed: set[int] = set()
    for scene in dict.fromkeys(scenes):
        numbers = [number for number, each in enumerate(scenes) if each == scene]
        wanted = [number for number in numbers if number in shown]
        if not wanted:
            continue
        first, warmed = wanted[0], 0
        while first > numbers[0] and (reach is None or warmed < reach):
            first -= 1
            warmed += lengths[first]
        needed |= set(range(first, wanted[-1] + 1))
    return frozenset(needed)


class Projector(AbstractContextManager):
    """Decodes chunks in a thread, and encodes their frames in another; use it in a `with` block.

    `add` every chunk of the story in its order, then `finish`. An error of either ends both, and is raised at
    the next call. If the block raises, what is in work is dropped: the store has the chunks.
    """

    def __init__(
        self,
        screen: Screen,
        reel: Reel,
        rules: Family,
        *,
        first: int,
        scenes: Sequence[int],
        lengths: Sequence[int],
        callbacks: Callbacks,
        sampling: torch.device,
        see: Callable[[Tensor], object] = lambda frames: None,
    ) -> None:
        """The reel's parts are the chunks from number `first` on; `scenes` and `lengths` are of all.

        `sampling` is the device that chunks come from.
        """
        self._screen, self._reel, self._rules, self._callbacks = screen, reel, rules, callbacks
        self._see, self._total, self._next = see, len(scenes), 0
        self._devices = cuda_devices(sampling, screen.device)
        self._shown = frozenset(first + number for number in reel.missing)
        self.needed = needed_chunks(scenes, lengths, self._shown, screen.reach)
        self._stopped, self._idle = threading.Event(), threading.Event()
        self._idle.set()
        self._threads = ExitStack()
        self.begun = False  # whether frames come
        self._sampling = False  # whether the model has its place
        self._overlap: bool | None = None  # unknown until a chunk was sampled
        self._inference = torch.is_inference_mode_enabled()  # a thread has to be told

    def __enter__(self) -> Projector:
        self._encoding = self._threads.enter_context(
            Worker[Tensor](self._reel.work, room=PIECES, name="encoding")
        )
        self._decoding = self._threads.enter_context(
            Worker[tuple[int, Chunk]](self._decode, room=ROOM, name="decoding")
        )
        return self

    def add(self, chunk: Chunk) -> None:
        """The story's next chunk. If they take turns, this returns when it is decoded."""
        number, self._next = self._next, self._next + 1
        if number not in self.needed:
            return
        if self._overlap is None and self._sampling:
            self._overlap = self._screen.overlap()
        self._idle.clear()
        self._decoding.add((number, chunk), self._check)
        while not self._overlap and not self._idle.wait(TICK) and self._decoding.error is None:
            self._check()

    def sample(self) -> None:
        """To be called before every call of the model: it may have made room for the decoder."""
        if not self._sampling:
            self._screen.to_sample()
            self._sampling = True

    def finish(self) -> None:
        """Wait until the film is whole. Raises what decoding and encoding raise."""
        self._decoding.finish(self._check)
        self._encoding.finish(self._check)

    def _check(self) -> None:
        self._callbacks.check(f"while chunk {self._next} of {self._total} was decoded")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._stopped.set()
        self._threads.__exit__(kind, error, trace)

    def _asked(self, items: Iterator[tuple[int, Chunk]]) -> Iterator[tuple[int, Chunk]]:
        for item in items:
            if not self._overlap:  # else both have their places, and a host may not move one beside the other
                self._screen.to_decode()
                self._sampling = False
            yield item
            self._idle.set()  # who asks for the next one has done with this one

    def _decode(self, items: Iterator[tuple[int, Chunk]]) -> None:
        try:
            self._shown_frames(items)
        except Cancelled:
            if not self._stopped.is_set():  # the block knows why it ends
                raise

    @torch.no_grad()
    def _shown_frames(self, items: Iterator[tuple[int, Chunk]]) -> None:
        with (
            torch.inference_mode(self._inference),
            self._screen.inside(),
            own_streams(self._devices, "decoding"),
        ):
            for frames in decode_chunks(
                self._screen.decoder,
                self._asked(items),
                self._rules,
                shown=self._shown,
                total=self._total,
                form=frame_bytes,
                tiling=self._screen.tiling,
                callbacks=Callbacks(self._stopped.is_set, self._callbacks.progress),
                device=self._screen.device,
            ):
                self.begun = True
                self._see(frames)
                self._encoding.add(frames)
