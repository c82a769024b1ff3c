"""Reads video files, at another rate and size if wanted, and the metadata of VideoWriter.

Pixels are tensors [1, 3, n, H, W] in [-1, 1]; n counts frames.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image
from torch import Tensor

from ..errors import FileError, InputError
from ..shapes import checked_fps
from .film import Film, Missed, Moment, Source, film_in, named, opened
from .film_picture import FilmPictures
from .growing_file import METADATA_KEY
from .image_file import fitted, stack_pictures

logger = logging.getLogger("sana_video")
T = TypeVar("T")

MARGIN = 2  # seconds decoded before the last frames: they may be fewer than the rate says
LONGEST_STILL = 600  # seconds; a frame that is shown for longer has a damaged time


def read_frames(
    source: Source,
    *,
    fps: float | Fraction | None = 16.0,
    last: int | None = None,
    width: int | None = None,
    height: int | None = None,
    start: float = 0,
    duration: float = 0,
) -> Tensor:
    """Frames [1, 3, n, H, W] of a video, float32 in [-1, 1], upright, with square pixels, in BT.709.

    Frames are resampled to `fps` by nearest time (None: all of them as they are). `last` keeps that many from
    the end, which is found by seeking. With `width` and `height` each frame is scaled to cover that size and
    center-cropped. Only what is shown from `start` on, for `duration` seconds (0: to the end), is read. The
    file is streamed: memory holds what is returned and, with `last`, as many decoded frames. A file that ends
    before its header says so is read as far as it goes, with a warning.
    """
    if (width is None) != (height is None):
        raise InputError(f"width is {width} and height is {height}; give both of them or none.")
    if last is not None and last < 1:
        raise InputError(f"last is {last}; it has to be at least 1 frame.")
    rate = None if fps is None else checked_fps(fps)
    film, pictures = Film(source), FilmPictures(named(source))
    part = _Part(film, rate, start, duration)
    size = None if width is None or height is None else (width, height)

    def picture(moment: Moment) -> Image.Image:
        made = pictures.picture(moment.frame, film.tags)
        return fitted(made, size) if size else made

    shown = map(picture, part.read()) if last is None else part.read_last(last, picture)
    pixels = stack_pictures(shown, size)
    if part.stop is None and film.ends_early:
        logger.warning(
            "%s ends early: its header says %.1f s, but only %.1f s are there. "
            "What is there is used; copy or download the file again if the rest matters.",
            named(source),
            film.stated,
            film.reached,
        )
    return pixels


def check_end(source: Source, *, fps: float, last: int) -> None:
    """Refuse at once what read_frames would refuse: the same frames are decoded, and dropped."""
    _Part(Film(source), checked_fps(fps), 0, 0).read_last(last, lambda moment: None)


def read_metadata(path: Path | str) -> dict[str, object]:
    """What VideoWriter wrote as metadata; empty if there is none."""
    with opened(path) as container:
        film_in(container, path)
        comment = container.metadata.get(METADATA_KEY, "")
    try:
        metadata = json.loads(comment)
    except ValueError:  # not our comment
        return {}
    return metadata if isinstance(metadata, dict) else {}


class _Part:
    """What of a film is read: from `start` on, for `duration` seconds (0: to the end), at a rate."""

    def __init__(self, film: Film, fps: Fraction | None, start: float, duration: float) -> None:
        self.film, self.fps = film, fps
        # in whole ticks of the file's clock, as ComfyUI counts
        self.begin = int(start / film.tick) * film.tick
        self.stop = int((start + duration) / film.tick) * film.tick if duration else None

    def read(self) -> Iterator[Moment]:
        """All frames."""
        zero = self._first()
        return self._at_rate(moment for moment in self._shown() if moment.start >= zero)

    def read_last(self, count: int, picture: Callable[[Moment], T]) -> list[T]:
        """Pictures of the last `count` frames, the same that reading everything gives.

        A longer end is decoded until it holds enough.
        """
        zero = self._first()
        end = min(self.film.end, self.stop or self.film.end)
        length = count * (1 / self.fps if self.fps else self.film.step)
        last = _Last(count, end - length, picture)
        back = length + MARGIN
        while end - back > zero:
            try:
                near = _from(self._shown(end - back), end - back)
                made = last.of(self._at_rate(near, zero))
            except Missed:
                made = []
            if len(made) == count:
                return made
            back *= 4
        return last.of(self.read())

    def _first(self) -> Fraction:
        """When the first frame is shown; all others are counted from it."""
        for since in (self.begin or None, None):
            try:
                return next(m.start for m in self._shown(since) if m.start >= self.begin)
            except Missed:
                continue
            except StopIteration:
                break
        raise FileError(
            f"{named(self.film.source)} has no frames after {float(self.begin):.1f} s. "
            "Choose an earlier start."
        )

    def _shown(self, since: Fraction | None = None) -> Iterator[Moment]:
        moments = self.film.moments(since)
        return moments if self.stop is None else takewhile(self._is_before_the_stop, moments)

    def _is_before_the_stop(self, moment: Moment) -> bool:
        return self.stop is None or moment.start < self.stop

    def _at_rate(self, moments: Iterator[Moment], zero: Fraction | None = None) -> Iterator[Moment]:
        return moments if self.fps is None else _resampled(moments, self.fps, zero, named(self.film.source))


class _Last(Generic[T]):
    """Pictures of the last frames.

    Scaling all of a long film would take minutes, and keeping decoded frames takes gigabytes. So only what is
    shown from `since` on, where the last frames begin if the header is right, is scaled as it comes.
    """

    def __init__(self, count: int, since: Fraction, picture: Callable[[Moment], T]) -> None:
        self.count, self.since, self.picture = count, since, picture

    def of(self, moments: Iterator[Moment]) -> list[T]:
        kept: deque[Moment | tuple[T]] = deque(maxlen=self.count)
        for moment in moments:
            kept.append((self.picture(moment),) if moment.end > self.since else moment)
        return [self.picture(entry) if isinstance(entry, Moment) else entry[0] for entry in kept]


def _from(moments: Iterator[Moment], since: Fraction) -> Iterator[Moment]:
    """Those from the one that is shown at `since` on."""
    shown = None
    for moment in moments:
        if shown is not None and moment.start > since:
            yield shown
        shown = moment
    if shown is not None:
        yield shown


def _resampled(
    moments: Iterator[Moment], fps: Fraction, zero: Fraction | None, name: str
) -> Iterator[Moment]:
    """The nearest of `moments` at every 1/fps seconds from `zero` on: as many as fit, but at least one.

    `zero` is when the film's first frame is shown, if that isn't the first of `moments`.
    """
    shown = next(moments)
    zero = shown.start if zero is None else zero
    count = max(0, math.ceil((shown.start - zero) * fps))  # of the frames so far
    for moment in moments:
        if moment.start - shown.start > LONGEST_STILL:
            raise FileError(
                f"{name} shows one picture from {float(shown.start):.1f} to {float(moment.start):.1f} s: "
                "its times are damaged. Export it again, with a constant frame rate."
            )
        while count / fps <= (shown.start + moment.start) / 2 - zero:
            yield shown
            count += 1
        shown = moment
    while count == 0 or (count + Fraction(1, 2)) / fps <= shown.end - zero:
        yield shown
        count += 1


def nearest_frames(count: int, rate: Fraction, fps: Fraction) -> list[int]:
    """Which of `count` frames at `rate` are shown at `fps`: the law of read_frames for an even rate."""
    whole = max(1, math.floor(count * fps / rate + Fraction(1, 2)))
    return [min(count - 1, max(0, math.ceil(index * rate / fps - Fraction(1, 2)))) for index in range(whole)]
