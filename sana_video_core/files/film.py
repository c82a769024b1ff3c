"""Video files as people have them: open, find the film in them, decode from a moment on.

Times are seconds of the file's own clock, as fractions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias, cast

import av
from av.container import InputContainer
from av.error import InvalidDataError
from av.video.stream import VideoStream

from ..errors import FileError
from .image_reader import LARGEST
from .places import is_file

Source: TypeAlias = Path | str | BytesIO

LEAD = 1  # seconds that are decoded before the moment that was asked for: a key frame may be shown late
SLACK = Fraction(1, 20)  # seconds by which a header may be longer than its film, besides two frames
ATTACHED_PICTURE = 0x400  # FFmpeg's mark of cover art


class Moment(NamedTuple):
    """One frame and when it is shown, in seconds. Its end comes from the file's average rate."""

    start: Fraction
    end: Fraction
    frame: av.VideoFrame


class Tags(NamedTuple):
    """What a file says of its pictures: FFmpeg's numbers; a pixel's width over its height, 0 if unknown."""

    primaries: int
    transfer: int
    aspect: Fraction


class Missed(Exception):  # noqa: N818  nothing is wrong with the file
    """Seeking did not lead to the moment that was asked for, so more of the file has to be decoded."""


class Film:
    """The film in a video file. Nothing stays open between two readings."""

    def __init__(self, source: Source) -> None:
        """Looks at the header. Raises FileError where there is no film to read."""
        self.source = source
        self.tags = Tags(2, 2, Fraction(0))
        self.reached = Fraction(0)  # the latest end of a packet, of pictures, sound or subtitles
        with opened(source) as container:
            stream = film_in(container, source)
            self.step = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.tick = Fraction(stream.time_base or Fraction(1, av.time_base))
            self.stated = Fraction(container.duration or 0, av.time_base)
            length = (stream.duration or 0) * self.tick
            # without a length of its own, a stream's end is Matroska's: counted from 0
            self.end = (stream.start_time or 0) * self.tick + length if length else self.stated
            self.description = (
                f"{stream.width}x{stream.height} pixels, {float(1 / self.step):.6g} frames a second, "
                f"{float(length or self.stated):.1f} s, {stream.codec_context.name}"
            )

    def moments(self, since: Fraction | None = None) -> Iterator[Moment]:
        """The frames from the beginning, or from one that is shown before `since`, found by seeking.

        Raises Missed if that frame isn't found, and FileError if there are no frames or damaged ones.
        """
        count = 0
        for moment in self._decoded(since):
            if not count and since is not None and moment.start > since:
                raise Missed
            count += 1
            yield moment
        if not count:
            if since is not None:
                raise Missed
            raise FileError(f"{named(self.source)} has no frames in it. Choose another video.")

    def _decoded(self, since: Fraction | None) -> Iterator[Moment]:
        with opened(self.source) as container:
            stream = film_in(container, self.source)
            stream.thread_type = "AUTO"
            # AVI keeps no times, and FFmpeg's are in the order of the file: wrong for H.264's B-frames
            timed = container.format.name != "avi" or not stream.codec_context.has_b_frames
            if since is not None:
                try:
                    container.seek(int((since - LEAD) / self.tick), stream=stream)
                except av.FFmpegError as error:  # a format that can't
                    raise Missed from error
            end = None
            beside = (*container.streams.audio, *container.streams.subtitles)
            for packet in container.demux(stream, *beside):
                self._hear(packet)
                # the packet that empties the decoder at the end has a stream, and 0 as its number
                if packet.stream.index != stream.index:
                    continue
                if packet.is_corrupt:  # a decoder with several threads may not report it
                    raise FileError(f"{named(self.source)} is cut off or damaged. Copy or download it again.")
                for frame in cast(list[av.VideoFrame], packet.decode()):
                    if timed and frame.pts is not None and frame.time_base is not None:
                        start = frame.pts * frame.time_base
                    elif since is not None:
                        raise Missed
                    else:
                        start = end or Fraction(0)
                    if end is None:
                        self.tags = _tags(stream)
                    end = start + self.step
                    yield Moment(start, end, frame)

    def _hear(self, packet: av.Packet) -> None:
        if packet.pts is not None and packet.time_base is not None:
            length = (packet.duration or 0) * packet.time_base or self.step
            self.reached = max(self.reached, packet.pts * packet.time_base + length)

    @property
    def ends_early(self) -> bool:
        """Whether the file, once read to its end, held less than its header says."""
        return self.stated - self.reached > 2 * self.step + SLACK


def named(source: Source) -> str:
    """How a message calls the file."""
    return "The video in memory" if isinstance(source, BytesIO) else f"“{Path(source).absolute()}”"


@contextmanager
def opened(source: Source) -> Iterator[InputContainer]:
    """The video file, open. FFmpeg's errors become FileErrors."""
    if not isinstance(source, BytesIO) and not is_file(source):
        raise FileError(f"There is no video file {named(source)}. Check the name and the folder.")
    if isinstance(source, BytesIO):
        source.seek(0)
    # absolute: FFmpeg takes “a:b.mp4” for a protocol
    file = source if isinstance(source, BytesIO) else str(Path(source).absolute())
    try:
        with av.open(file, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise FileError(f"{named(source)} may not be read. Ask its owner, or copy it.") from error
        if isinstance(error, InvalidDataError) and _lacks_its_index(source):
            raise FileError(
                f"{named(source)} ends early: the index that an MP4 gets at its end is missing, so nothing "
                "can be read. The recording or the copy was cut off; copy or download it again."
            ) from error
        raise FileError(
            f"{named(source)} cannot be read as a video: {error.strerror}. It may be damaged, cut off or of "
            "another kind; see whether a video player plays it to the end, and export it again as MP4."
        ) from error


def film_in(container: InputContainer, source: Source) -> VideoStream:
    """The stream that a player would show; cover art is none."""
    best = container.streams.best("video")
    films = [s for s in container.streams.video if not s.disposition.value & ATTACHED_PICTURE]
    if not films:
        raise FileError(f"{named(source)} has no pictures in it, only sound or less. Choose a video file.")
    stream = best if isinstance(best, VideoStream) and best in films else films[0]
    if stream.codec_context is None:
        raise FileError(
            f"{named(source)} is in a video format that the installed FFmpeg doesn't know. "
            "Export it again as MP4 (H.264)."
        )
    if stream.width * stream.height * 3 > LARGEST:
        raise FileError(
            f"{named(source)} is too large to be read: its pictures have {stream.width}x{stream.height} "
            "pixels. Export it again, no larger than 4096 pixels a side."
        )
    return stream


def _tags(stream: VideoStream) -> Tags:
    context, aspect = stream.codec_context, stream.sample_aspect_ratio
    return Tags(int(context.color_primaries), int(context.color_trc), Fraction(aspect or 0))


def _lacks_its_index(source: Source) -> bool:
    """Whether this is an MP4 (or MOV) without the box that says where its pictures are."""
    if isinstance(source, BytesIO):
        source.seek(0)
        kinds = list(_boxes(source))
    else:
        with Path(source).open("rb") as file:
            kinds = list(_boxes(file))
    return kinds[:1] == [b"ftyp"] and b"moov" not in kinds


def _boxes(file: BinaryIO) -> Iterator[bytes]:
    """The names of an MP4's outermost boxes."""
    position = 0
    while len(header := file.read(16)) >= 8:
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        yield kind
        if length == 1:  # the size follows in 64 bits
            length = int.from_bytes(header[8:], "big")
        if length < 8:  # 0: to the end of the file
            return
        position += length
        file.seek(position)
