"""Tables of measures over many clips: shares of words obeyed, and errors at borders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from .measures import Obeyed, border_error, clear_of_walls, seam_ratio_of
from .sampling import Watched
from .scenes import STRAIGHT, Story

Table = dict[str, "float | int | None"]


LOST = 64.0  # pixels; the error of a shape that has disappeared is half a picture


def shares(answers: Sequence[Obeyed]) -> Table:
    words = {word: [getattr(answer, word) for answer in answers] for word in (*Obeyed._fields, "all")}
    return {word: mean(values) for word, values in words.items()}


def border_table(stories: Sequence[Story], clips: Watched, borders: Sequence[int]) -> Table:
    """Errors at these borders; `lost` is the share of those where nothing can be measured."""
    every, straight, seams = [], [], []
    for b, story in enumerate(stories):
        detections = clips.detections.of(b)
        for border in borders:
            every.append(border_error(detections, border))
            seams.append(seam_ratio_of(clips.changes[b], border))
            if story.shots[0].motion in STRAIGHT and clear_of_walls(detections, border):
                straight.append(LOST if math.isnan(every[-1]) else every[-1])
    return {
        "border error, straight and clear, median (px)": median(straight),
        "straight and clear borders": len(straight),
        "border error, all, median (px)": median(every),
        "lost at a border": mean([math.isnan(error) for error in every]),
        "seam ratio, median": median(seams),
    }


def known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def median(values: Iterable[float]) -> float | None:
    good = known(values)
    return float(torch.tensor(good).quantile(0.5)) if good else None
