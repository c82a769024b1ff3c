"""What is left of a film that ends early, in words."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from ..sana_video_core.files.film_file import FilmFile
from ..sana_video_core.films.making import Making


class Kept(AbstractContextManager):
    """Says, if its block raises, what is kept. Put it around the film's file, which is closed then."""

    def __init__(self, out: Path, making: Making, *, resume: bool = True) -> None:
        self._out, self._pieces, self._resume = out, making.pieces, resume
        self.file: FilmFile | None = None
        self.chunks = 0  # of the pieces, made or found so far

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and (words := self._words()):
            print(words, file=sys.stderr)

    def _words(self) -> str:
        frames = self.file.frames if self.file else 0
        if not self.chunks and not frames:  # it hadn't begun
            return ""
        kept = sum(n < self.chunks or piece.latents is not None for n, piece in enumerate(self._pieces))
        words = f"“{self._out}” holds what is finished, {frames} frames. " if frames else ""
        words += f"{kept} of {len(self._pieces)} chunks are kept: the same command "
        return words + ("goes on from there." if self._resume else "with --resume goes on from there.")
