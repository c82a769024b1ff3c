"""Measures of clips: do they obey their sentence, and do they continue over the borders of chunks?

Pure functions on frames and on the tracker's detections. T frames; lengths in pixels unless said otherwise.
One clip at a time, as `Detections.of` returns it. What can't be measured is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .motions import moves, path_of
from .scenes import COLOURS, FIRST_CHUNK, NEXT_CHUNK, SHAPES, STRAIGHT, TURNING, Shot, Story, frames_of
from .tracker import Detections, reach, short_way

LUMA = (0.299, 0.587, 0.114)
BEFORE, AFTER = 12, 4  # frames that a motion is fitted to before a border, and compared with after it
NEAR_WALL = 8  # frames before and after a border in which a shape has to keep clear of the walls
STEADY = 0.002  # a change of a frame (out of 2) that isn't motion; keeps ratios of still clips finite


class Obeyed(NamedTuple):
    """Which words of a sentence the clip obeys."""

    colour: bool
    shape: bool
    motion: bool

    @property
    def all(self) -> bool:
        return self.colour and self.shape and self.motion


def frames_of_chunk(chunk: int) -> range:
    """The frames of a chunk, counted from 0, in a stream without a cut."""
    begin = frames_of(chunk) if chunk else 0
    return range(begin, begin + (NEXT_CHUNK if chunk else FIRST_CHUNK))


def frames_of_shot(story: Story, number: int, chunks: int) -> range:
    """The frames in which a shot has to be obeyed: without those of the turn from the shot before."""
    begin, end = story.begins[number], (*story.begins, chunks)[number + 1]
    first = frames_of_chunk(begin).start + (TURNING if number else 0)
    return range(first, frames_of_chunk(min(end, chunks) - 1).stop)


def obeyed(shot: Shot, detections: Detections, frames: range) -> Obeyed:
    """Whether one clip shows in `frames` what `shot` says. The colour is the final one."""
    part = detections.between(frames.start, frames.stop)
    if not bool(part.there.any()):
        return Obeyed(False, False, False)
    late = part.colour[len(part.colour) // 2 :]  # a colour takes some frames to change
    late = late[late >= 0]
    colour = int(late.mode().values) if len(late) else -1
    path = path_of(part)
    return Obeyed(
        colour == list(COLOURS).index(shot.final_colour),
        int(part.voted_shape) == SHAPES.index(shot.shape),
        path is not None and moves(path, shot.motion),
    )


def border_error(detections: Detections, border: int, *, before: int = BEFORE, after: int = AFTER) -> float:
    """The mean distance of the shape, from `border` on, to where its motion before leads.

    The motion of the `before` frames before is taken as constant, so this is a measure for straight movers.
    """
    line = _line(detections, border, before)
    part = detections.between(border, min(border + after, len(detections.there)))
    if line is None or not bool(part.there.any()):
        return math.nan
    times = part.there.nonzero()[:, 0].double()
    height, width = detections.size
    expected = line[0] + line[1] * times[:, None]
    off = short_way(part.centre[part.there].double() - expected, torch.tensor([width, height]))
    return float(off.norm(dim=1).mean())


def _line(detections: Detections, border: int, before: int) -> tuple[Tensor, Tensor] | None:
    """Centre [2] at the frame `border` and velocity [2] from the frames before, if there are enough."""
    part = detections.between(max(0, border - before), border)
    if int(part.there.sum()) < max(3, before // 2):
        return None
    times = part.there.nonzero()[:, 0].double() - len(part.there)
    raw = part.centre[part.there].double()
    height, width = detections.size
    places = torch.cat(
        [raw[:1], raw[:1] + short_way(raw.diff(dim=0), torch.tensor([width, height])).cumsum(0)]
    )
    # medians of all pairs: a single wrong detection has little weight
    pairs = list(combinations(range(len(times)), 2))
    slopes = [(places[b] - places[a]) / (times[b] - times[a]) for a, b in pairs]
    velocity = torch.stack(slopes).quantile(0.5, dim=0)
    return (places - velocity * times[:, None]).quantile(0.5, dim=0), velocity


def clear_of_walls(
    detections: Detections, border: int, *, before: int = BEFORE, around: int = NEAR_WALL
) -> bool:
    """Whether the shape, continuing as before `border`, touches no side of the picture around the border.

    Doesn't look behind the border: a clip that goes wrong there has to be counted.
    """
    line = _line(detections, border, before)
    if line is None:
        return False
    part = detections.between(max(0, border - before), border)
    radius = reach(int(part.voted_shape), float(part.area[part.there].median()))
    times = torch.arange(-around, around)[:, None]
    centre = line[0] + line[1] * times
    height, width = detections.size
    # the line is unwrapped: it may be in the picture beside this one
    centre = centre - torch.tensor([width, height]) * torch.floor(line[0] / torch.tensor([width, height]))
    return bool((centre > radius).all() and (centre < torch.tensor([width, height]) - radius).all())


def frame_changes(frames: Tensor) -> Tensor:
    """Mean absolute difference [..., T] of frames [..., 3, T, H, W] to the one before; 0 for the first."""
    changes = frames.diff(dim=-3).abs().mean((-4, -2, -1))
    return torch.cat([torch.zeros_like(changes[..., :1]), changes], dim=-1)


def seam_ratio(frames: Tensor, border: int) -> float:
    """The change over a border relative to the usual change in its two chunks, in one clip [3, T, H, W]."""
    return seam_ratio_of(frame_changes(frames), border)


def seam_ratio_of(changes: Tensor, border: int) -> float:
    """`seam_ratio` from the changes [T] of all frames."""
    first = max(1, border - NEXT_CHUNK)
    usual = torch.cat([changes[first:border], changes[border + 1 : border + NEXT_CHUNK]])
    return float((changes[border] + STEADY) / (usual.median() + STEADY)) if len(usual) else math.nan


def light(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness and saturation (max - min channel) of frames [..., 3, T, H, W], each [..., T] in [0, 1]."""
    picture = (frames.float() + 1) / 2
    luma = torch.tensor(LUMA, device=frames.device)[:, None, None, None]
    saturation = picture.amax(-4) - picture.amin(-4)
    return (picture * luma).sum(-4).mean((-2, -1)), saturation.mean((-2, -1))


def drift(frames: Tensor) -> tuple[list[float], list[float]]:
    """Brightness and saturation of every chunk of one clip [3, T, H, W], relative to the first chunk."""
    brightness, saturation = light(frames)
    return drift_of(brightness), drift_of(saturation)


def drift_of(values: Tensor) -> list[float]:
    """The mean of each whole chunk of [T] values, relative to the first."""
    count = (len(values) - FIRST_CHUNK) // NEXT_CHUNK + 1
    means = [float(values[chunk.start : chunk.stop].mean()) for chunk in map(frames_of_chunk, range(count))]
    return [mean / max(means[0], 1e-6) for mean in means]


def sideways(detections: Detections, shot: Shot) -> float:
    """How far a straight mover drifts sideways from the first chunk to the last; NaN for others."""
    first, last = (
        detections.between(0, FIRST_CHUNK),
        detections.between(len(detections.there) - NEXT_CHUNK, len(detections.there)),
    )
    if shot.motion not in STRAIGHT or not bool(first.there.any()) or not bool(last.there.any()):
        return math.nan
    axis = 1 if STRAIGHT[shot.motion][0] else 0
    length = detections.size[1 - axis]  # size is height, width; centre is x, y

    def middle(part: Detections) -> float:
        places = part.centre[part.there][:, axis]
        return float(places[0] + short_way(places - places[0], length).median())

    return abs(float(short_way(torch.tensor(middle(last) - middle(first)), length)))


def contact_sheet(
    clips: Sequence[Tensor], texts: Sequence[str], *, every: int = 8, line: int = 14
) -> Image.Image:
    """A picture with a row for each clip [3, T, H, W] in [-1, 1] under its text; one frame in `every`."""
    rows = [clip[:, ::every].float().cpu() for clip in clips]
    H, W = rows[0].shape[2:]
    width = max(row.shape[1] for row in rows) * (W + 2)
    sheet = Image.new("RGB", (width, len(rows) * (H + 2 + line)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
        top = number * (H + 2 + line)
        pen.text((2, top + 1), text, fill="black")
        pixels = ((row + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).numpy()
        for place, picture in enumerate(pixels):
            sheet.paste(Image.fromarray(np.ascontiguousarray(picture)), (place * (W + 2), top + line))
    return sheet
