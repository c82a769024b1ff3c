"""A stream's film while it is sampled: chunk n is decoded while chunk n + 1 is made.

The caller samples in its own thread and hands over each state. Where there is room, a second thread decodes,
on CUDA streams of its own; else everything is decoded at the end, when the transformer has left the device.
Frames and their order are the same either way, bit for bit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import torch
from torch import Tensor

from ..callbacks import Callbacks
from ..config import OVERLAPS, Family, check_choice
from ..cuda_streams import cuda_devices, own_streams
from ..files.background import Worker
from ..files.image_file import frame_bytes
from ..vae.decoders import VideoDecoder
from ..vae.reach import decoder_reach
from ..vae.tiling import Tiling
from .decoding import decode_chunks, decode_history, first_needed
from .state import Chunk, Identity, Story

logger = logging.getLogger("sana_video")

ROOM = 1  # chunks that wait for the decoder: more would only be sampled earlier, and shown no sooner
# bytes that stay free: another program's, fragments, and what later chunks take (a memory, recorded passes)
SPARE = 3 * 2**29

Item: TypeAlias = tuple[int, Chunk, list[torch.cuda.Event]]  # the chunk's number, counted from 0


class Pipeline(AbstractContextManager):
    """Decodes a stream's chunks from number `from_chunk` (counted from 0) on, as they are sampled.

    Use it in a `with` block: `add` every state, then `finish`. Frames go to `write` as bytes [n, H, W, 3], on
    the CPU, in the order of the film, from whichever thread decodes. An error of decoding or writing ends it,
    and is raised where the next state is added; then `error` is that error. If the block raises, what was
    added is still decoded.
    """

    def __init__(
        self,
        vae: VideoDecoder,
        write: Callable[[Tensor], object],
        *,
        sampling: torch.device,
        decoding: torch.device,
        from_chunk: int,
        total: int,
        overlap: str = "auto",
        tiling: Tiling | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        """The transformer samples on one device and the VAE decodes on one, mostly the same; it comes there.

        `total` is how many chunks the stream will have. `overlap` is one of OVERLAPS; auto asks, at the first
        state, whether both models have room, and stops overlapping when there is none after all.
        """
        check_choice("overlap", overlap, OVERLAPS)
        self._vae, self._write, self._overlap = vae, write, overlap
        # “cuda” is cuda:0
        self._sampling, self._device = (torch.empty(0, device=each).device for each in (sampling, decoding))
        self._from_chunk, self._total, self._tiling = from_chunk, total, tiling
        self._callbacks = callbacks or Callbacks()
        self._worker: Worker[Item] | None = None
        self._asked_for, self._stopped = overlap == "on", threading.Event()
        self._added = self._shown = 0  # chunks handed over, frames written by the thread

    @property
    def overlapped(self) -> bool:
        """Whether chunks are decoded while others are sampled, as far as it is known."""
        return self._overlap == "on"

    @property
    def begun(self) -> bool:
        """Whether the thread has begun, so that frames come while others are sampled."""
        return self._worker is not None

    @property
    def error(self) -> BaseException | None:
        """What ended the decoding thread, if it failed."""
        return self._worker and self._worker.error

    def add(self, state: Story) -> None:
        """Hand over a state with new chunks. They are decoded meanwhile, or at the end."""
        if self._overlap == "auto":
            room = has_room(self._vae, state.identity, self._sampling, self._device)
            self._overlap = "on" if room else "off"
        if self._overlap == "off":
            return
        if self._worker is None:
            self._begin(state)
        assert self._worker is not None
        for chunk in state.history[self._added :]:
            self._worker.add((self._added, chunk, _moments(self._sampling, self._device)))
            self._added += 1

    def finish(self, state: Story) -> None:
        """Decode what is left of the newest state. Raises what decoding and writing raise."""
        if self.begun or self.overlapped:  # Ctrl-C may have come before the first state was added
            try:
                self.add(state)
                if self._worker is not None:
                    self._worker.finish()
            except BaseException:  # a second Ctrl-C: the frames at hand are the last
                self._stopped.set()
                raise
        if not self.overlapped:
            self._decode_all(state)

    def _decode_all(self, state: Story) -> None:
        """What a thread has shown before it ran out of memory isn't shown again."""
        self._vae.to(self._device)
        known = self._shown
        for frames in decode_history(
            self._vae,
            state,
            from_chunk=self._from_chunk,
            form=frame_bytes,
            tiling=self._tiling,
            callbacks=self._callbacks,
        ):
            if len(frames) > known:
                self._write(frames[known:])
            known = max(0, known - len(frames))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if self._worker is not None:
                self._worker.__exit__(kind, error, trace)
        finally:
            self._stopped.set()

    def _begin(self, state: Story) -> None:
        self._vae.to(self._device)
        self._added = first = first_needed(state.history, self._from_chunk, decoder_reach(self._vae))
        rules = state.identity.rules

        def work(items: Iterator[Item]) -> None:
            try:
                self._decode(items, first, rules)
            except torch.OutOfMemoryError:
                if self._asked_for:
                    raise
                self._overlap = "off"
            if not self.overlapped:  # not in the handler: the error keeps tensors alive
                torch.cuda.empty_cache()
                words = "%s has no room for decoding beside the sampling: the rest is decoded after it."
                logger.warning(words, self._device)
                for _ in items:  # they are decoded at the end
                    pass

        self._worker = Worker(work, room=ROOM, name="decoding")

    def _decode(self, items: Iterator[Item], first: int, rules: Family) -> None:
        with own_streams(cuda_devices(self._sampling, self._device), "decoding") as streams:
            for frames in decode_chunks(
                self._vae,
                _handed_over(items, first, streams),
                rules,
                shown=range(self._from_chunk, self._total),
                total=self._total,
                form=frame_bytes,
                tiling=self._tiling,
                callbacks=Callbacks(self._cancelled, self._callbacks.progress),
            ):
                self._write(frames)
                self._shown += len(frames)

    def _cancelled(self) -> bool:
        return self._stopped.is_set() or self._callbacks.cancelled()


def has_room(vae: VideoDecoder, identity: Identity, sampling: torch.device, decoding: torch.device) -> bool:
    """Whether decoding fits beside sampling, after a chunk has been sampled: on another device, it does.

    What sampling took is still PyTorch's, so free memory is what is left beside it. Tiles don't count: a
    stream keeps the cache of each. A CPU's cores are busy.
    """
    if decoding != sampling:
        return True
    if decoding.type != "cuda":
        return False
    needed = vae.memory_for(identity.batch, identity.grid, decoding)
    needed += sum(tensor.nbytes for tensor in vae.state_dict().values() if tensor.device != decoding)
    free, _ = torch.cuda.mem_get_info(decoding)
    return free > needed + SPARE


def _moments(*devices: torch.device) -> list[torch.cuda.Event]:
    """Now, on each device: what a thread has asked for so far is done by then."""
    moments = []
    for device in cuda_devices(*devices):
        moments.append(torch.cuda.Event())
        moments[-1].record(torch.cuda.current_stream(device))
    return moments


def _handed_over(
    items: Iterator[Item], first: int, streams: list[torch.cuda.Stream]
) -> Iterator[tuple[int, Chunk]]:
    """The chunks from number `first` on, once this thread's streams wait for what made them."""
    for number, chunk, moments in items:
        if number < first:  # a second time: Ctrl-C came between adding it and counting it
            continue
        first = number + 1
        for stream in streams:
            for moment in moments:
                stream.wait_event(moment)
            if chunk.latents.device == stream.device:
                chunk.latents.record_stream(stream)  # or its memory might be another's while it is read
        yield number, chunk
