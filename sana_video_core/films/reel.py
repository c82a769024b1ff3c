"""A film's segments in their order: those that the store has, and those that are encoded now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from ..errors import FileError
from ..files.film_file import FilmFile
from ..files.segments import SegmentEncoder, encoder_version, opened_segment
from ..transformer.compute import compute_tag
from ..vae.decoders import VideoDecoder, VideoVAE
from .entry import Entry
from .keys import SegmentKey
from .store import Store

logger = logging.getLogger("sana_video")
MP4 = "mp4"
WHOLE = "whole"  # pictures that are decoded at once, not in tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How chunks become segments: all that a segment's key holds besides its chunk."""

    vae: str  # content of the file
    vae_dtype: str
    kernels: str
    compute: str
    fps: Fraction
    codec: str
    crf: int = 18
    tiling: str = WHOLE

    def key(self, chunk: str) -> str:
        """The name of a chunk's segment."""
        return SegmentKey(
            chunk=chunk,
            vae=self.vae,
            vae_dtype=self.vae_dtype,
            tiling=self.tiling,
            kernels=self.kernels,
            compute=self.compute,
            fps=self.fps,
            codec=self.codec,
            crf=self.crf,
            row=0,
            encoder=encoder_version(self.codec),
        ).key


def look_of(
    vae: VideoDecoder, device: torch.device, content: str, *, fps: Fraction, codec: str, tiling: str = WHOLE
) -> Look:
    """The look of films that this VAE decodes on `device`; `content` is its file's."""
    kernels = "triton" if isinstance(vae, VideoVAE) and vae.kernel_choice(device).triton else "plain"
    return Look(
        vae=content,
        vae_dtype=str(vae.dtype).removeprefix("torch."),
        kernels=kernels,
        compute=compute_tag(device, vae.dtype, kernels, "full"),
        fps=fps,
        codec=codec,
        tiling=tiling,
    )


class Part:
    """One chunk of the film: its name in the store, if it has one, and how many frames it is."""

    def __init__(self, chunk: str | None, frames: int) -> None:
        self.chunk, self.frames = chunk, frames


class Reel:
    """Puts a film together. `missing` are the numbers of the parts whose frames have to be written.

    Without a `look` (a VAE that has no name) or a store, these are all of them.
    """

    def __init__(
        self,
        file: FilmFile,
        parts: Sequence[Part],
        *,
        codec: str,
        crf: int = 18,
        look: Look | None = None,
        store: Store | None = None,
        tiling: Callable[[], str] = lambda: WHOLE,
        resume: bool = True,
    ) -> None:
        """`tiling` says how the decoder works now: when memory is short it turns to tiles, for good."""
        self.file, self.parts, self._codec, self._crf = file, parts, codec, crf
        self._look, self._store, self._tiling = look, store, tiling
        self._keeps = store is not None  # until it can't be written
        self.keys = [look.key(part.chunk) if look and part.chunk else None for part in parts]
        self.missing = frozenset(n for n in range(len(parts)) if not (resume and self._has(n)))
        self._next = 0  # the part that comes next
        self._encoder: SegmentEncoder | None = None

    def work(self, frames: Iterable[Tensor]) -> None:
        """Bytes [n, H, W, 3] of the missing parts in their order, however they are cut, become the film."""
        self._append_known()
        for piece in frames:
            while len(piece):
                piece = self._written(piece)

    def _written(self, piece: Tensor) -> Tensor:
        """Encodes what belongs to the next part, and gives the rest."""
        if self._encoder is None:
            self._encoder = SegmentEncoder(fps=self.file.fps, codec=self._codec, crf=self._crf)
        mine = piece[: self.parts[self._next].frames - self._encoder.frames]
        self._encoder.write(mine)
        if self._encoder.frames == self.parts[self._next].frames:
            segment, self._encoder = self._encoder.finish(), None
            self.file.append(self._kept(segment))
            self._next += 1
            self._append_known()
        return piece[len(mine) :]

    def _append_known(self) -> None:
        while self._next < len(self.parts) and self._next not in self.missing:
            segment = self._read(self._next)
            if segment is None:
                raise FileError("A part of the film has disappeared from the store. Make the film again.")
            self.file.append(segment)
            self._next += 1

    def _has(self, number: int) -> bool:
        return self._read(number) is not None

    def _read(self, number: int) -> bytes | None:
        key = self.keys[number]
        entry = self._store.read("segments", key) if self._store and key else None
        return None if entry is None else self._segment(entry, number)

    def _segment(self, entry: Entry, number: int) -> bytes | None:
        """What an entry holds, if it is this part and can be joined."""
        data = entry.tensors.get(MP4)
        if data is None or data.dtype != torch.uint8:
            return None
        segment = data.numpy().tobytes()
        try:
            with opened_segment(segment, self.file.fps, 0) as part:
                return segment if len(part.packets) == self.parts[number].frames else None
        except FileError:
            return None

    def _kept(self, segment: bytes) -> bytes:
        """The segment that counts: the one of the first who made it."""
        number, key = self._next, self.keys[self._next]
        # what was decoded in tiles because memory was short isn't what its key says
        as_named = self._look and self._tiling() == self._look.tiling
        if not self._store or not self._keeps or not as_named or not key:
            return segment
        data = torch.from_numpy(np.frombuffer(segment, dtype=np.uint8).copy())
        try:
            entry = self._store.write("segments", key, {MP4: data}, {"frames": self.parts[number].frames})
        except FileError as error:
            logger.warning("%s The film goes on; after a crash, this part would be decoded again.", error)
            self._keeps = False
            return segment
        return self._segment(entry, number) or segment
