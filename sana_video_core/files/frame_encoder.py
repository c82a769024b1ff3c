"""Frames into the packets of one H.264 stream.

Frames are pixels [1, 3, n, H, W] in [-1, 1], or bytes [n, H, W, 3]; n counts frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import cast

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from ..errors import InputError
from ..shapes import checked_fps
from .encoders import ENCODERS, check_codec, check_crf, encoder_options
from .image_file import to_bytes

BT709 = 1  # its number in H.264's tables of primaries, transfer and matrix alike
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG: luma in 16 … 235
THREADS = 8
KEY_SECONDS = 1  # between two frames that a player can seek to


class FrameEncoder:
    """Encodes frames of one size into a container. Raises InputError or FileError for what can't work."""

    def __init__(self, *, fps: float | Fraction, codec: str, crf: int) -> None:
        """`codec` is one of config.CODECS; `crf` is H.264's quality, 0 (lossless) to 51."""
        check_crf(crf)
        check_codec(codec)
        self.fps = checked_fps(fps)
        self._encoder, self._crf = ENCODERS[codec], crf
        self._reformatter = VideoReformatter()
        self._container: OutputContainer | None = None
        self._written: list[None] = []  # one entry for every frame

    @property
    def frames(self) -> int:
        """Frames encoded so far."""
        return len(self._written)

    def begin(self, container: OutputContainer, width: int, height: int) -> None:
        """Add the stream to a container that is open and has none. The encoder's threads start here."""
        if width % 2 or height % 2 or not width or not height:
            raise InputError(f"Frames of {width}x{height} pixels were given; H.264 needs even sides.")
        options = encoder_options(self._encoder, self._crf) | {"g": str(math.ceil(KEY_SECONDS * self.fps))}
        stream = cast(VideoStream, container.add_stream(self._encoder, rate=self.fps, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.fps
        # slices of one frame keep few cores busy; each thread holds a frame, which a full disk would cost
        context.thread_type, context.thread_count = "FRAME", THREADS
        # untagged, a player guesses the matrix from the height, and colours shift
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        container.start_encoding()  # now, because a Ctrl-C in it would cost the first packets
        self._container = container

    def write(self, picture: np.ndarray) -> None:
        """Encode the next frame, bytes [H, W, 3]."""
        assert self._container is not None
        stream = self._container.streams.video[0]
        height, width, _ = picture.shape
        if (width, height) != (stream.width, stream.height):
            raise InputError(
                f"Frames of {width}x{height} pixels were given after frames of "
                f"{stream.width}x{stream.height}; all frames of a video have one size. Start another file."
            )
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        # one for all frames: each has threads and tables of its own
        frame = self._reformatter.reformat(
            frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        frame.pts, frame.time_base = self.frames, 1 / self.fps
        # one C call encodes, writes and counts: between several, Ctrl-C would lose packets
        self._written.extend(_encoding(self._container, frame))

    def end(self) -> None:
        """Encode what the encoder still holds. The container stays open."""
        if self._container is not None:
            next(_encoding(self._container, None))

    def stop(self) -> None:
        """Let the threads that convert frames go now, and not when somebody forgets an error."""
        del self._reformatter


def pictures(frames: Tensor) -> Iterator[np.ndarray]:
    """Bytes [H, W, 3] of one frame after the other, without a second copy of a long chunk."""
    if frames.dtype == torch.uint8 and frames.dim() == 4 and frames.shape[3] == 3:
        return map(Tensor.numpy, frames.unbind(0))
    if frames.dim() == 5 and frames.shape[0] == 1:
        frames = frames[0]
    if frames.dim() != 4 or frames.shape[0] != 3:
        raise InputError(
            f"Frames of shape {tuple(frames.shape)} were given; a video takes [3, frames, height, "
            "width]. Write one file per batch row."
        )
    return map(to_bytes, frames.unbind(1))


def _encoding(container: OutputContainer, frame: av.VideoFrame | None) -> Iterator[None]:
    """An iterator whose one item sends a frame (None for the end) through the encoder into the file."""
    return map(container.mux, map(container.streams.video[0].encode, (frame,)))
