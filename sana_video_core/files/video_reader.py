"""Reads video files, at another rate and size if wanted, and the metadata of VideoWriter.

Pixels are tensors [1, 3, n, H, W] in [-1, 1]; n counts frames.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
from av.container import InputContainer
from PIL import Image
from torch import Tensor

from ..errors import FileError, InputError
from .image_file import stack_pictures
from .video_writer import METADATA_KEY, checked_fps

Moment: TypeAlias = tuple[Fraction, Fraction, av.VideoFrame]  # start and end in seconds


def read_frames(
    path: Path | str,
    *,
    fps: float | None = 16.0,
    last: int | None = None,
    width: int | None = None,
    height: int | None = None,
) -> Tensor:
    """Frames [1, 3, n, H, W] of a video, float32 in [-1, 1], upright.

    Frames are resampled to `fps` by nearest time (None: all of them as they are). `last` keeps that many from
    the end. With `width` and `height` each frame is scaled to cover that size and center-cropped. The file is
    streamed: memory holds what is returned and, with `last`, as many decoded frames.
    """
    if (width is None) != (height is None):
        raise InputError(f"width is {width} and height is {height}; give both of them or none.")
    if last is not None and last < 1:
        raise InputError(f"last is {last}; it has to be at least 1 frame.")
    moments = _decoded(path) if fps is None else _resampled(_decoded(path), checked_fps(fps))
    if last is not None:
        moments = deque(moments, maxlen=last)  # before scaling: scaling all of a long film would take minutes
    size = None if width is None or height is None else (width, height)
    return stack_pictures((_upright(frame) for _, _, frame in moments), size)


def read_metadata(path: Path | str) -> dict[str, object]:
    """What VideoWriter wrote as metadata; empty if there is none."""
    with _opened(path) as container:
        comment = container.metadata.get(METADATA_KEY, "")
    try:
        metadata = json.loads(comment)
    except ValueError:  # not our comment
        return {}
    return metadata if isinstance(metadata, dict) else {}


@contextmanager
def _opened(path: Path | str) -> Iterator[InputContainer]:
    """The video file at `path`, open. FFmpeg's errors become FileErrors."""
    path = Path(path).absolute()
    if not path.is_file():
        raise FileError(f"There is no video file “{path}”. Check the name and the folder.")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise FileError(f"“{path}” has no pictures in it, only sound or less. Choose a video file.")
            yield container
    except av.FFmpegError as error:
        raise FileError(
            f"“{path}” cannot be read as a video: {error.strerror}. It may be damaged, cut off or of another "
            "kind; see whether a video player plays it to the end, and export it again as MP4."
        ) from error


def _decoded(path: Path | str) -> Iterator[Moment]:
    """The frames of a file with their times. A frame's end comes from the file's average rate."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        step = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
        end = None
        for packet in container.demux(stream):
            if packet.is_corrupt:  # a decoder with several threads may not report it
                raise FileError(f"“{path}” is cut off or damaged. Copy or download it again.")
            for frame in packet.decode():
                if frame.pts is None or frame.time_base is None:
                    start = end or Fraction(0)
                else:
                    start = frame.pts * frame.time_base
                end = start + step
                yield start, end, frame
        if end is None:
            raise FileError(f"“{path}” has no frames in it. Choose another video.")


def _resampled(moments: Iterator[Moment], fps: Fraction) -> Iterator[Moment]:
    """The nearest of `moments` at every 1/fps seconds from the first on: as many as fit, but at least one."""
    shown = next(moments)
    zero = shown[0]
    count = 0  # of those yielded
    for moment in moments:
        while count / fps <= (shown[0] + moment[0]) / 2 - zero:
            yield shown
            count += 1
        shown = moment
    while count == 0 or (count + Fraction(1, 2)) / fps <= shown[1] - zero:
        yield shown
        count += 1


def _upright(frame: av.VideoFrame) -> Image.Image:
    """A decoded frame as RGB, rotated as its file says (phones film sideways)."""
    # RGB has no matrix; but PyAV before 15 uses the wrong one unless source and target differ by name.
    picture = frame.to_image(dst_colorspace="ITU601", src_color_range=frame.color_range)
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
