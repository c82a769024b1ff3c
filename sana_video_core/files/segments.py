"""Segments: parts of a film, each a small MP4 that plays by itself and can be joined with others.

A segment is made by an encoder of its own, which begins with a key frame and ends with nothing held back, and
its headers depend on the options and the size only. So the same frames always give the same segment, and
joined segments are the film that one uninterrupted run would make.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from io import BytesIO
from typing import NamedTuple

import av
import torch
from av.container import OutputContainer
from av.video.stream import VideoStream
from torch import Tensor

from ..errors import FileError, InputError
from .encoders import ENCODERS, encoder_options
from .frame_encoder import KEY_SECONDS, THREADS, FrameEncoder, pictures

FORMAT = 1  # of a segment; count on when the same frames get other bytes by a change here
REORDER = 2  # frames that H.264's B-frames, as our encoders place them, are shown late
TRIAL = 256  # pixels, each way
LIBRARIES = ("libavcodec", "libavformat", "libswscale")


class SegmentEncoder:
    """Encodes one segment, while its frames arrive, in the encoder's own threads."""

    def __init__(self, *, fps: float | Fraction, codec: str = "h264", crf: int = 18) -> None:
        """As VideoWriter's. Raises InputError or FileError for what can't work."""
        self._encoder = FrameEncoder(fps=fps, codec=codec, crf=crf)
        self._file = BytesIO()
        self._container: OutputContainer | None = None

    @property
    def frames(self) -> int:
        """Frames taken so far."""
        return self._encoder.frames

    def write(self, frames: Tensor) -> None:
        """Append bytes [n, H, W, 3], uint8 on the CPU, or pixels as VideoWriter takes them."""
        with _explained():
            for picture in pictures(frames):
                if self._container is None:
                    self._container = self._open(picture.shape[1], picture.shape[0])
                self._encoder.write(picture)

    def finish(self) -> bytes:
        """The segment, an MP4. Raises InputError if it has no frames."""
        if self._container is None or not self.frames:
            raise InputError("A part of a film without frames was asked for; it takes at least one.")
        self._encoder.stop()
        with _explained(), self._container:  # closes it
            self._encoder.end()
        return self._file.getvalue()

    def _open(self, width: int, height: int) -> OutputContainer:
        container = av.open(self._file, "w", format="mp4")
        weakref.finalize(self, container.close)  # PyAV 16 crashes where one in memory is forgotten open
        self._encoder.begin(container, width, height)
        return container


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise FileError(
            f"Encoding failed ({error.strerror}). Choose another size or codec; h264_nvenc may be in use by "
            "other programs."
        ) from error


def encode_segment(
    frames: Iterable[Tensor], *, fps: float | Fraction, codec: str = "h264", crf: int = 18
) -> bytes:
    """The segment, an MP4, of frames that come in any portions."""
    encoder = SegmentEncoder(fps=fps, codec=codec, crf=crf)
    for portion in frames:
        encoder.write(portion)
    return encoder.finish()


@cache
def encoder_version(codec: str = "h264") -> str:
    """All that decides what `codec` makes of frames, besides fps, size and crf, as text.

    x264 writes its own version and every option into what it makes, so that is read from a trial.
    """
    encoder = ENCODERS[codec]
    known: dict[str, object] = {
        "segment": FORMAT,
        "av": av.__version__,
        "libraries": {name: av.library_versions[name] for name in LIBRARIES},
        "encoder": encoder,
        "options": encoder_options(encoder, 18) | {"threads": THREADS, "key_seconds": KEY_SECONDS},
    }
    if encoder == "libx264":
        made = encode_segment([torch.zeros(1, TRIAL, TRIAL, 3, dtype=torch.uint8)], fps=16, codec=codec)
        known["x264"] = made[made.index(b"x264 - core") :].split(b"\0")[0].decode("ascii", "replace")
    return json.dumps(known, sort_keys=True)


class Headers(NamedTuple):
    """What segments must have in common to be joined."""

    width: int
    height: int
    extradata: bytes


class Part(NamedTuple):
    """An opened segment. The packets, in decoding order, have times that count the film's frames."""

    stream: VideoStream
    headers: Headers
    packets: list[av.Packet]


@contextmanager
def opened_segment(segment: bytes, fps: Fraction, first: int) -> Iterator[Part]:
    """The segment's packets, as its first frame is number `first` of a film. Raises FileError."""
    try:
        with av.open(BytesIO(segment), format="mp4") as container:
            if not container.streams.video:
                raise FileError("A part of the film has no pictures in it. Make it again.")
            stream = container.streams.video[0]
            context = stream.codec_context
            headers = Headers(stream.width, stream.height, bytes(context.extradata or b""))
            packets = [packet for packet in container.demux(stream) if packet.size]
            if len(packets) != stream.frames or any(packet.is_corrupt for packet in packets):
                raise FileError("A part of the film is damaged or cut off. Make it again.")
            _count_times(packets, fps, first)
            yield Part(stream, headers, packets)
    except av.FFmpegError as error:
        raise FileError(f"A part of the film cannot be read ({error.strerror}). Make it again.") from error


def _count_times(packets: list[av.Packet], fps: Fraction, first: int) -> None:
    """Give packets times that count frames. Raises FileError where they aren't a segment's of this rate."""
    shown = [(packet.pts or 0) * Fraction(packet.time_base or 0) * fps for packet in packets]
    if sorted(shown) != list(range(len(packets))):
        raise FileError(
            f"A part of the film has not {float(fps):.6g} frames a second, as the others. Make it again."
        )
    late = max((place - moment for place, moment in enumerate(shown)), default=Fraction(0))
    if not packets or not packets[0].is_keyframe or shown[0] or late > REORDER:
        raise FileError("A part of the film doesn't begin with a key frame of its own. Make it again.")
    for place, (packet, moment) in enumerate(zip(packets, shown, strict=True)):
        packet.pts, packet.dts, packet.duration = first + int(moment), first + place - REORDER, 1
        packet.time_base = 1 / fps
