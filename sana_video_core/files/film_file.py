"""A film that grows by segments (segments.py): their packets are copied as they are, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av

from ..errors import FileError, InputError
from .audio import Audio
from .growing_file import METADATA_KEY, GrowingFile
from .segments import Headers, Part, opened_segment

# a segment is one fragment, and a file by itself for FFmpeg: only the numbers and times run on
FRAGMENTS = "frag_custom+delay_moov+default_base_moof+frag_discont+skip_trailer"


class FilmFile(GrowingFile):
    """Joins segments to a film, without encoding them again; use it in a `with` block.

    Whatever happens costs at most the segment in work: each is in the hidden file, and plays, once `append`
    returns.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float | Fraction,
        metadata: Mapping[str, object] | None = None,
        audio: Audio | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`audio` is cut to the film's length, and ends before it if it is shorter; `tags` are a host's."""
        super().__init__(path, fps=fps, metadata=metadata, audio=audio, tags=tags)
        self._headers: Headers | None = None
        self._frames, self._segments, self._size = 0, 0, 0

    @property
    def frames(self) -> int:
        """Frames of the segments so far."""
        return self._frames

    def append(self, segment: bytes) -> None:
        """Add what SegmentEncoder made. Raises FileError, and adds nothing, if it can't be joined or written.

        Then the same or another segment may be tried.
        """
        with self._lock:
            if self._closed:
                raise InputError(f"“{self.path}” is already closed; open a new film to add to it.")
            with opened_segment(segment, self.fps, self.frames) as part:
                self._check(part.headers)
                fragment, frames = self._fragment(part), len(part.packets)
            with self._explained("What was finished is kept; free some space."):
                self._write(fragment)
            self._headers = part.headers
            self._frames, self._segments = self._frames + frames, self._segments + 1

    def _check(self, headers: Headers) -> None:
        if self._headers is None or headers == self._headers:
            return
        ours, other = (f"{size.width}x{size.height}" for size in (self._headers, headers))
        if ours != other:
            raise FileError(
                f"A part of {other} pixels was given for “{self.path}”, whose pictures are {ours}. "
                "All parts of a film have one size: make it again in that size, or begin another film."
            )
        raise FileError(
            f"A part for “{self.path}” was encoded in another way than those before it (another codec, frame "
            "rate or version of FFmpeg). Make it again."
        )

    def _fragment(self, part: Part) -> bytes:
        """The segment's packets as they follow in the file; the first one's with the file's headers."""
        made = BytesIO()
        options = {"movflags": FRAGMENTS, "fragment_index": str(self._segments + 1)}
        with av.open(made, "w", format="mp4", options=options) as container:
            container.metadata[METADATA_KEY] = self._metadata
            stream = container.add_stream_from_template(part.stream, opaque=True)
            stream.time_base = 1 / self.fps
            for packet in part.packets:
                packet.stream = stream
                container.mux(packet)
        data = made.getvalue()
        return data[_first_fragment(data) :] if self._segments else data

    def _write(self, fragment: bytes) -> None:
        """Add to the hidden file, or leave it as it was."""
        with self._partial.open("r+b", buffering=0) as file:
            file.seek(self._size)
            file.truncate()  # what an interrupt left uncounted
            try:
                rest = memoryview(fragment)
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:  # also Ctrl-C
                with suppress(OSError):  # at the end it is cut anyway
                    file.truncate(self._size)
                raise
        self._size += len(fragment)

    def _end(self) -> None:
        """Every segment is written."""


def _first_fragment(data: bytes) -> int:
    """Where the first fragment begins."""
    position = 0
    while data[position + 4 : position + 8] != b"moof":
        position += int.from_bytes(data[position : position + 4], "big")
    return position
