"""Writes video files so that finished frames are kept.

Frames are pixels [1, 3, n, H, W] in [-1, 1], or bytes [n, H, W, 3]; n counts frames.
"""

from __future__ import annotations

import json
import logging
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import cast

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from ..errors import FileError, InputError
from ..shapes import checked_fps
from .atomic import check_place, flush
from .claims import keep_elsewhere
from .encoders import ENCODERS, check_codec, encoder_options
from .hidden import hidden_folder
from .image_file import to_bytes

logger = logging.getLogger("sana_video")

BT709 = 1  # its number in H.264's tables of primaries, transfer and matrix alike
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG: luma in 16 … 235
THREADS = 8
FRAGMENT_SECONDS = 1  # lost on a full disk, besides what the encoder still holds
METADATA_KEY = "comment"  # the one free text that MP4 has and every player knows


class VideoWriter(AbstractContextManager):
    """Writes pixels to an H.264 MP4 file as they come; use it in a `with` block.

    Frames go to a hidden file beside `path`, in fragments that play by themselves. At the end they are copied
    to an ordinary MP4, which takes the final name in one rename; until then an older file stays. If the block
    raises, the finished frames are kept. On a full disk the whole fragments are kept, and the last seconds
    lost. If the name can't be taken at the end, the video is kept elsewhere. A killed process leaves only a
    hidden folder, which the next writer of this name removes.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float | Fraction = 16,
        codec: str = "h264",
        crf: int = 18,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """`crf` is H.264's quality, 0 (lossless) to 51; `metadata` is kept as JSON.

        Everything that can be checked before the first frame is checked here, so that no sampling is wasted.
        """
        # absolute: FFmpeg takes “a:b.mp4” for a protocol, and the working folder may change
        self.path = Path(path).absolute()
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"“{self.path}” was given as the name of a video; it has to end in .mp4.")
        if not 0 <= crf <= 51:
            raise InputError(f"crf is {crf}; it has to be 0 (lossless) to 51 (poor); 18 is usual.")
        check_codec(codec)
        self._encoder, self._crf = ENCODERS[codec], crf
        self._fps = checked_fps(fps)
        self.describe(metadata or {})
        self._container: OutputContainer | None = None
        self._reformatter = VideoReformatter()
        self._written: list[None] = []  # one entry for every frame
        self._closed, self._lock = False, Lock()
        check_place(self.path)
        with self._explained("Choose a folder that you may write to."), ExitStack() as hidden:
            folder = hidden.enter_context(hidden_folder(self.path))
            self._partial, self._whole = folder / "partial.mp4", folder / "whole.mp4"
            self._partial.touch()
            self._hidden = hidden.pop_all()

    def describe(self, metadata: Mapping[str, object]) -> None:
        """Take this metadata instead, if the file isn't closed yet."""
        # odd objects become text: metadata must never cost a video
        self._metadata = json.dumps(dict(metadata), skipkeys=True, default=str)

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return len(self._written)

    def write(self, frames: Tensor) -> None:
        """Append frames [3, n, H, W] or [1, 3, n, H, W] in [-1, 1], of any float dtype, on any device.

        Or bytes [n, H, W, 3], uint8 on the CPU. The first call sets the size; both sides have to be even.
        """
        pictures, height, width = _pictures(frames)
        for picture in pictures:
            with self._lock:
                self._write(picture, width, height)

    def _write(self, picture: np.ndarray, width: int, height: int) -> None:
        """Append one frame [H, W, 3]."""
        if self._closed:
            raise InputError(f"“{self.path}” is already closed; open a new writer to write more frames.")
        if self._container is None:
            self._container = self._open(width, height)
        stream = self._container.streams.video[0]
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
        frame.pts, frame.time_base = self.frames, 1 / self._fps
        with self._explained("What was finished is kept if it can be; free some space."):
            # one C call encodes, writes and counts: between several, Ctrl-C would lose packets
            self._written.extend(_encoding(self._container, frame))

    def close(self) -> None:
        """Finish the file under its final name, or leave nothing if it has no frames. Can be called twice."""
        with self._lock:  # not while a thread is within a frame
            if self._closed:
                return
            self._closed = True
            del self._reformatter  # its threads end now, and not when somebody forgets an error
        with self._explained("Close every program that has it open, and try again."):
            try:
                if self._container is not None and self.frames:
                    self._finish(self._container)
            finally:
                self._hidden.close()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except FileError as failure:
            if error is None:
                raise
            logger.warning("%s", failure)  # the block's own exception is the one to raise

    def _open(self, width: int, height: int) -> OutputContainer:
        """The hidden file, ready for frames of this size."""
        if width % 2 or height % 2 or not width or not height:
            raise InputError(f"Frames of {width}x{height} pixels were given; H.264 needs even sides.")
        # without delay_moov the file starts two frames late, at the first B-frame's decoding time
        flags = {"movflags": "frag_keyframe+delay_moov+default_base_moof"}
        container = av.open(str(self._partial), "w", format="mp4", options=flags)
        container.metadata[METADATA_KEY] = self._metadata
        options = encoder_options(self._encoder, self._crf) | {
            "g": str(math.ceil(FRAGMENT_SECONDS * self._fps))
        }
        stream = cast(VideoStream, container.add_stream(self._encoder, rate=self._fps, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self._fps
        # slices of one frame keep few cores busy; each thread holds a frame, which a full disk would cost
        context.thread_type, context.thread_count = "FRAME", THREADS
        # untagged, a player guesses the matrix from the height, and colours shift
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        with self._explained("Free some space, or choose another size."):
            container.start_encoding()  # now, because a Ctrl-C in it would cost the first packets
        return container

    def _finish(self, container: OutputContainer) -> None:
        """End the fragments and give the file its name. Raises FileError if frames were lost."""
        reason, kept = "the end did not reach the disk", 0
        try:
            with container:  # closes it
                next(_encoding(container, None))
        except av.FFmpegError as error:
            reason = error.strerror
        finally:  # also after a second Ctrl-C; and FFmpeg doesn't report every failure at the end of a file
            kept = self._take_name()
        if kept < self.frames:
            raise FileError(
                f"Only {kept} of the {self.frames} frames could be kept in “{self.path}”: {reason}. "
                "Free some space or choose another folder, and make the rest again."
            )

    def _take_name(self) -> int:
        """Give what is whole the final name; returns how many frames that are. Raises FileError."""
        kept, made = _cut_to_whole_fragments(self._partial), self._partial  # fragments play as well
        if not kept:
            return 0
        try:
            if _copy_as_ordinary_mp4(self._partial, self._whole, self._metadata) == kept:
                made = self._whole
        finally:
            try:
                flush(made)
                made.replace(self.path)
            except OSError as error:
                place = keep_elsewhere(made, self.path)
                raise FileError(
                    f"“{self.path}” could not take its name ({error.strerror}). "
                    f"The video is kept as “{place}”, with {kept} frames."
                ) from error
        return kept

    @contextmanager
    def _explained(self, advice: str) -> Iterator[None]:
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            if isinstance(error, FileError):
                raise
            what = f"Writing “{self.path}” failed after {self.frames} frames: {error.strerror}."
            raise FileError(f"{what} {advice}") from error


def _pictures(frames: Tensor) -> tuple[Iterator[np.ndarray], int, int]:
    """Bytes [H, W, 3] of one frame after the other, without a second copy of a long chunk; height, width."""
    if frames.dtype == torch.uint8 and frames.dim() == 4 and frames.shape[3] == 3:
        return map(Tensor.numpy, frames.unbind(0)), frames.shape[1], frames.shape[2]
    if frames.dim() == 5 and frames.shape[0] == 1:
        frames = frames[0]
    if frames.dim() != 4 or frames.shape[0] != 3:
        raise InputError(
            f"Frames of shape {tuple(frames.shape)} were given; a video takes [3, frames, height, "
            "width]. Write one file per batch row."
        )
    return map(to_bytes, frames.unbind(1)), frames.shape[2], frames.shape[3]


def _encoding(container: OutputContainer, frame: av.VideoFrame | None) -> Iterator[None]:
    """An iterator whose one item sends a frame (None for the end) through the encoder into the file."""
    return map(container.mux, map(container.streams.video[0].encode, (frame,)))


def _cut_to_whole_fragments(path: Path) -> int:
    """Cut a fragmented MP4 after its last whole fragment; returns how many frames it then holds."""
    end = position = 0
    with path.open("r+b") as file:
        size = path.stat().st_size
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            position += max(length, 8)
            if kind in (b"mdat", b"mfra") and position <= size:
                end = position
            file.seek(position)
        file.truncate(end)
    return _whole_frames(path)


def _copy_as_ordinary_mp4(source: Path, target: Path, metadata: str) -> int:
    """Copy a fragmented MP4 to one with its index in front, for seeking; returns how many frames arrived."""
    flags = {"movflags": "faststart"}
    try:
        with (
            av.open(str(source)) as fragments,
            av.open(str(target), "w", format="mp4", options=flags) as copy,
        ):
            copy.metadata.update(fragments.metadata | {METADATA_KEY: metadata})
            # without `opaque`, PyAV before 15 opens an encoder for the copy and writes empty packets
            stream = copy.add_stream_from_template(fragments.streams.video[0], opaque=True)
            for packet in fragments.demux(video=0):
                if packet.size:  # PyAV ends with an empty packet
                    packet.stream = stream
                    copy.mux(packet)
    except av.FFmpegError:
        return 0
    return _whole_frames(target)


def _whole_frames(path: Path) -> int:
    """How many frames an MP4 of ours really holds, whatever its index says."""
    try:
        with av.open(str(path)) as container:
            return sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux(video=0))
    except av.FFmpegError:
        return 0
