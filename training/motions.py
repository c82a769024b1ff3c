"""Recognises motions: each of `scenes.MOTIONS` as a test of a detected path.

One clip of n frames. Lengths are in heights of the picture and times in frames, as in `scenes`. NumPy arrays,
because they are short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from .scenes import (
    GROWTH,
    LARGEST,
    ORBIT,
    ORBIT_SPEED,
    ROUND,
    SHAPES,
    SLANT,
    SMALLEST,
    SPEEDS,
    SPIN_SPEED,
    STRAIGHT,
)
from .tracker import Detections, period, short_way, unit_areas

SLOW = SPEEDS[0] / 3  # slower isn't motion
STILL = 0.1  # a shape that ends within this distance of where it began has stayed
SPAN = 3  # a velocity is measured from so many frames before to so many after
SEEN = 0.7  # the share of frames in which the shape has to be seen
RATE = (0.6, 1.4)  # tolerance of the speed of a turn
AT_LIMIT = 0.9  # a size this close to the limit counts as the limit
SLANTED = math.radians(12)  # tolerance of a bouncer's direction


@dataclass(frozen=True)
class Path:
    """One clip's shape in n frames."""

    centre: np.ndarray  # [n, 2] unwrapped: it continues beyond the edge of the picture
    velocity: np.ndarray  # [n - 2 SPAN, 2]
    radius: np.ndarray  # [n]
    turn: float  # radians a frame, the median; 0 for a round shape
    wraps: bool  # whether it left on one side and entered on the other

    @property
    def speed(self) -> float:
        return float(np.median(np.linalg.norm(self.velocity, axis=1)))

    @property
    def net(self) -> np.ndarray:
        """The mean velocity [2]."""
        return self.velocity.mean(axis=0)

    @property
    def growth(self) -> float:
        """How much larger the radius is at the end."""
        return float(np.median(self.radius[-5:]) - np.median(self.radius[:5]))

    @property
    def stays(self) -> bool:
        return self.speed < SLOW and bool(np.linalg.norm(self.centre[-1] - self.centre[0]) < STILL)


def path_of(detections: Detections) -> Path | None:
    """The path of one clip's shape; None if it is seen in too few frames."""
    frames = detections.there.nonzero()[:, 0].numpy()
    n = len(detections.there)
    if len(frames) < max(2, SEEN * n) or n <= 2 * SPAN + 2:
        return None
    unwrapped, wraps = unwrap(detections)
    shape = int(detections.voted_shape)
    radius = (detections.area[detections.there] / unit_areas()[shape]).sqrt().numpy() / detections.size[0]
    every = np.arange(n)
    centre = np.stack([np.interp(every, frames, unwrapped[:, axis]) for axis in (0, 1)], axis=1)
    velocity = (centre[2 * SPAN :] - centre[: -2 * SPAN]) / (2 * SPAN)
    return Path(centre, velocity, np.interp(every, frames, radius), _turn(detections, shape), wraps)


def unwrap(detections: Detections) -> tuple[np.ndarray, bool]:
    """Centres [frames with a shape, 2] in heights, continued beyond the edges, and whether it crosses one."""
    height, width = detections.size
    size = torch.tensor([width, height], dtype=torch.float64)
    raw = detections.centre[detections.there].double()
    steps = raw.diff(dim=0)
    short = short_way(steps, size)
    wraps = bool(((steps - short).abs() > 1).any())
    return torch.cat([raw[:1], raw[:1] + short.cumsum(0)]).numpy() / height, wraps


def _turn(detections: Detections, shape: int) -> float:
    name = SHAPES[shape]
    both = detections.there[1:] & detections.there[:-1]
    if name in ROUND or not bool(both.any()):
        return 0.0
    steps = short_way(detections.angles[:, shape].diff()[both], period(name))
    return float(steps.median())


def moves(path: Path, motion: str) -> bool:
    """Whether the path is the motion `motion` of `scenes.MOTIONS`."""
    if motion in STRAIGHT:
        return _straight(path, np.array(STRAIGHT[motion]))
    return _OTHERS[motion](path)


def _straight(path: Path, way: np.ndarray) -> bool:
    """Most of the path goes one way, and fast enough."""
    along = float(path.net @ way)
    across = float(np.linalg.norm(path.net - along * way))
    length = float(np.linalg.norm(path.velocity, axis=1).mean())
    return along >= SLOW and across <= 0.5 * along and along >= 0.8 * length


def _circle(path: Path) -> bool:
    """The velocity turns evenly at the expected rate, and the path stays near one place."""
    heading = np.unwrap(np.arctan2(path.velocity[:, 1], path.velocity[:, 0]))
    rates = [np.polyfit(np.arange(len(part)), part, 1)[0] for part in np.array_split(heading, 3)]
    whole = (heading[-1] - heading[0]) / (len(heading) - 1)
    even = all(rate * whole > 0 and abs(rate) > 0.35 * ORBIT_SPEED for rate in rates)
    bounded = bool((np.ptp(path.centre, axis=0) < 1.5 * 2 * ORBIT).all())
    return path.speed >= SLOW and even and _near(whole, ORBIT_SPEED) and bounded


def _bounce(path: Path) -> bool:
    """The path is slanted most of the time, never leaves the picture, and isn't a circle."""
    slant = np.arctan2(np.abs(path.velocity[:, 1]), np.abs(path.velocity[:, 0]))
    slanted = float(np.median(np.abs(slant - SLANT))) < SLANTED
    return path.speed >= SLOW and slanted and not path.wraps and not _circle(path)


def _grow(path: Path) -> bool:
    return path.stays and (path.growth >= _expected_growth(path) or path.radius[-1] >= AT_LIMIT * LARGEST)


def _shrink(path: Path) -> bool:
    return path.stays and (path.growth <= -_expected_growth(path) or path.radius[-1] <= SMALLEST / AT_LIMIT)


def _expected_growth(path: Path) -> float:
    """The least that counts as growth: a third of what a shape grows until its limit."""
    return min(GROWTH * (len(path.radius) - 1), LARGEST - SMALLEST) / 3


def _spin(path: Path) -> bool:
    return path.stays and _near(path.turn, SPIN_SPEED)


def _stop(path: Path) -> bool:
    steady = abs(path.growth) < _expected_growth(path) and abs(path.turn) < SPIN_SPEED / 3
    return path.stays and steady


def _near(rate: float, expected: float) -> bool:
    return RATE[0] * expected <= abs(rate) <= RATE[1] * expected


_OTHERS = {
    "circle": _circle,
    "bounce": _bounce,
    "grow": _grow,
    "shrink": _shrink,
    "spin": _spin,
    "stop": _stop,
}
