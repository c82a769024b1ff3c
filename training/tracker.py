"""Finds the shape in frames: its place, size, colour, kind and rotation.

It knows what `drawing` draws and nothing of models, so it judges drawn and generated frames alike. B clips of
T frames, N frames of any clips, H W rows and columns, P the side of a patch, R templates. Colours in [0, 1].

The floor's colour is that of most pixels, with the gradient removed. A pixel with a brighter channel belongs
to the shape (a shadow only darkens). The shape's core gives its colour, and how far a pixel is from the
floor's colour to that one gives a soft mask.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .drawing import FLOOR_ROWS, coverage
from .scenes import COLOURS, LARGEST, SHAPES, SMALLEST

FRAMES = 64  # at a time, so that they fit in a cache
BRIGHTER = 0.10  # than the floor, in one channel at least; the dark side of a green ball on grey is 0.16
EDGE = (0.2, 0.8)  # shares of the colour between which a mask goes from 0 to 1
REACH = 0.95  # the farthest that any shape reaches from its centre, in square roots of its area
PATCH = 32
ALONE = 0.75  # the share of a mask that has to be within reach of its centre
ALIKE = 0.6  # the least likeness of a shape to its best template
SYMMETRY = {"ball": 0, "square": 4, "triangle": 3, "star": 5, "ring": 0, "cross": 4}  # 0: any turn
OUTERMOST = {
    "ball": 0.95,
    "square": 1.19,
    "triangle": 1.12,
    "star": 1.18,
    "ring": 1.05,
    "cross": 1.08,
}  # radii
ROTATIONS = 24  # templates of a shape that isn't round


class Detections(NamedTuple):
    """What is seen in T frames of B clips, on the CPU; `of` one clip, without the axis B."""

    there: Tensor  # [B, T] whether there is exactly one thing that may be a shape
    centre: Tensor  # [B, T, 2] x to the right and y downwards, pixels; NaN where nothing is there
    area: Tensor  # [B, T] pixels
    colour: Tensor  # [B, T] index into COLOURS; -1 where nothing is there
    likeness: Tensor  # [B, T, 6] to each of SHAPES, in [0, 1]; 0 where nothing is there
    angles: Tensor  # [B, T, 6] radians, if it is that shape; modulo the shape's symmetry
    size: tuple[int, int]  # height and width of the picture, pixels

    @property
    def shape(self) -> Tensor:
        """[B, T] index into SHAPES of the best match in each frame alone; -1 where nothing is there."""
        return torch.where(self.there, self.likeness.argmax(-1), -1)

    @property
    def voted_shape(self) -> Tensor:
        """[B] index into SHAPES of the best match over all frames; -1 if none shows a shape."""
        return torch.where(self.there.any(-1), self.likeness.sum(-2).argmax(-1), -1)

    def of(self, clip: int) -> Detections:
        return Detections(*(tensor[clip] for tensor in self[:6]), size=self.size)

    def between(self, first: int, end: int) -> Detections:
        """Frames `first` to `end` - 1 of one clip or of all."""
        axis = self.there.ndim - 1
        return Detections(*(tensor.narrow(axis, first, end - first) for tensor in self[:6]), size=self.size)


def join(parts: Sequence[Detections], dim: int) -> Detections:
    """Detections concatenated along clips (0) or frames (1)."""
    fields = zip(*(part[:6] for part in parts), strict=True)
    return Detections(*(torch.cat(tensors, dim) for tensors in fields), size=parts[0].size)


@torch.no_grad()
def find(frames: Tensor) -> Detections:
    """Detections in frames [B, 3, T, H, W] or [T, 3, H, W] (then B is 1), in [-1, 1], on any device."""
    if frames.ndim == 4:
        frames = frames.transpose(0, 1)[None]
    B, _, T, H, W = frames.shape
    parts = []
    for clip in frames:
        for some in clip.split(FRAMES, dim=1):
            parts.append(tuple(tensor.cpu() for tensor in _find(some.transpose(0, 1))))
    fields = (torch.cat(tensors).unflatten(0, (B, T)) for tensors in zip(*parts, strict=True))
    return Detections(*fields, size=(H, W))


def _find(frames: Tensor) -> tuple[Tensor, ...]:
    """The tensors of `Detections` for N frames [N, 3, H, W]."""
    picture = (frames.float() + 1) / 2
    H = picture.shape[2]
    floor = _floor(picture)
    colour = _core_colour(picture, floor)
    mask = _mask(picture, floor, colour)
    whole = mask.sum((1, 2))
    mask, centre = _centred(mask)
    area = mask.sum((1, 2))
    likeness, angles = _compare(_patch(mask, centre, area))
    there = (area > ALONE * whole) & (likeness.amax(1) > ALIKE)
    # with a margin on the areas that shapes can have
    there &= (area > 0.5 * 1.6 * (SMALLEST * H) ** 2) & (area < 1.4 * 2.9 * (LARGEST * H) ** 2)
    known = torch.tensor(list(COLOURS.values()), device=colour.device)
    name = torch.cdist(colour, known).argmin(1)
    return (
        there,
        centre.where(there[:, None], math.nan),
        area,
        name.where(there, -1),
        likeness * there[:, None],
        angles.where(there[:, None], math.nan),
    )


def _floor(picture: Tensor) -> Tensor:
    """The floor's colour in each row [N, 3, H]: the median of all pixels, with the gradient removed."""
    H = picture.shape[2]
    rows = torch.linspace(*FLOOR_ROWS, H, device=picture.device)
    # every second pixel is enough: no shape with its shadow covers half of a picture
    flat = picture[:, :, ::2, ::2] / rows[::2, None]
    return flat.flatten(2).median(dim=2).values[:, :, None] * rows


def _core_colour(picture: Tensor, floor: Tensor) -> Tensor:
    """The mean colour [N, 3] of what is brighter than the floor, without its rim; shading averages out."""
    brighter = ((picture - floor[..., None]).amax(1) > BRIGHTER).float()
    core = -F.max_pool2d(-brighter, 3, stride=1, padding=1)
    core = torch.where(core.sum((1, 2), keepdim=True) >= 9, core, brighter)
    total = core.sum((1, 2))
    return torch.einsum("nchw,nhw->nc", picture, core) / total.clamp(min=1)[:, None]


def _mask(picture: Tensor, floor: Tensor, colour: Tensor) -> Tensor:
    """How much of each pixel is shape [N, H, W]: how far it is from the floor's colour to the shape's."""
    way = colour[:, :, None] - floor
    far = torch.einsum("nchw,nch->nhw", picture, way) - (floor * way).sum(1)[:, :, None]
    far = far / (way * way).sum(1).clamp(min=1e-3)[:, :, None]
    return ((far - EDGE[0]) / (EDGE[1] - EDGE[0])).clamp(0, 1)


def _centred(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The mask [N, H, W] within reach of its centre, and that centre [N, 2] in pixels, on the torus."""
    H, W = mask.shape[1:]
    centre = torch.stack([_circular_mean(mask.sum(1)), _circular_mean(mask.sum(2))], dim=1)
    for _ in range(2):  # the circular mean is off for an asymmetric shape, or with specks far away
        x, y = short_way(_places(W, mask) - centre[:, :1], W), short_way(_places(H, mask) - centre[:, 1:], H)
        around = REACH * mask.sum((1, 2)).sqrt() + 2
        mask = mask * (x[:, None, :] ** 2 + y[:, :, None] ** 2 < around[:, None, None] ** 2)
        total = mask.sum((1, 2)).clamp(min=1e-6)
        moved = [(mask.sum(1) * x).sum(1) / total, (mask.sum(2) * y).sum(1) / total]
        centre = torch.remainder(centre + torch.stack(moved, dim=1), torch.tensor([W, H], device=mask.device))
    return mask, centre


def _places(length: int, like: Tensor) -> Tensor:
    """The centres of pixels."""
    return torch.arange(length, device=like.device) + 0.5


def _circular_mean(weights: Tensor) -> Tensor:
    """The mean position [N] of weights [N, W] on a ring of W pixels."""
    W = weights.shape[1]
    turn = _places(W, weights) * (2 * math.pi / W)
    return torch.atan2(weights @ turn.sin(), weights @ turn.cos()) * (W / (2 * math.pi))


def short_way(distance: Tensor, length: Tensor | float) -> Tensor:
    """Distances on a ring, the short way around."""
    return torch.remainder(distance + length / 2, length) - length / 2


def _patch(mask: Tensor, centre: Tensor, area: Tensor) -> Tensor:
    """The mask around its centre [N, P, P], at a scale that gives every shape the same area."""
    H, W = mask.shape[1:]
    step = 2 * REACH * area.clamp(min=1).sqrt()[:, None] / PATCH
    places = (_places(PATCH, mask) - PATCH / 2) * step

    def weights(middle: Tensor, length: int) -> Tensor:
        """The weight of each pixel at each of P places [N, P, length]."""
        away = short_way((middle[:, None] + places)[..., None] - _places(length, mask), length).abs()
        near = (1 - away / step.clamp(min=1)[..., None]).clamp(min=0)
        return near / near.sum(-1, keepdim=True).clamp(min=1e-6)

    return weights(centre[:, 1], H) @ mask @ weights(centre[:, 0], W).transpose(1, 2)


def _compare(patch: Tensor) -> tuple[Tensor, Tensor]:
    """Likeness to each shape [N, 6] at its best rotation, and that rotation [N, 6] in radians."""
    patch, templates = patch.flatten(1), _templates(patch.device)
    common = patch @ templates.T
    either = (patch**2).sum(1)[:, None] + (templates**2).sum(1) - common
    scores = (common / either.clamp(min=1e-6)).split([len(_angles(name)) for name in SHAPES], dim=1)
    likeness = torch.stack([score.amax(1) for score in scores], dim=1)
    return likeness, torch.stack([_peak(s, name) for s, name in zip(scores, SHAPES, strict=True)], dim=1)


def _peak(scores: Tensor, name: str) -> Tensor:
    """The angle [N] of the highest of the scores [N, R] of a shape's rotations, interpolated between them."""
    R = scores.shape[1]
    if R == 1:
        return torch.zeros_like(scores[:, 0])
    best = scores.argmax(1, keepdim=True)
    before, at, after = (scores.gather(1, (best + step) % R)[:, 0] for step in (-1, 0, 1))
    between = 0.5 * (before - after) / (before - 2 * at + after).clamp(max=-1e-6)
    return (best[:, 0] + between.clamp(-0.5, 0.5)) * (period(name) / R)


def period(name: str) -> float:
    """The rotation in radians after which a shape looks the same; 0 if it always does."""
    return 2 * math.pi / SYMMETRY[name] if SYMMETRY[name] else 0.0


def _angles(name: str) -> list[float]:
    steps = ROTATIONS if SYMMETRY[name] else 1
    return [period(name) * step / steps for step in range(steps)]


@functools.cache
def _templates(device: torch.device) -> Tensor:
    """Every shape at each of its rotations, all with area 1 [R, P * P]."""
    rotations = [(index, angle) for index, name in enumerate(SHAPES) for angle in _angles(name)]
    shape = torch.tensor([index for index, _ in rotations])
    angle = torch.tensor([angle for _, angle in rotations])
    step = 2 * REACH / PATCH
    places = ((torch.arange(PATCH) + 0.5 - PATCH / 2) * step).expand(len(rotations), PATCH, PATCH)
    radius = unit_areas()[shape].rsqrt()
    return coverage(places, places.transpose(1, 2), radius, angle, shape, 2 * step).flatten(1).to(device)


def reach(shape: int, area: float) -> float:
    """How far a shape of this area reaches from its centre, in pixels; `shape` is an index into SHAPES."""
    return OUTERMOST[SHAPES[shape]] * math.sqrt(area / float(unit_areas()[shape]))


@functools.cache
def unit_areas() -> Tensor:
    """The area [6] of each of SHAPES at the radius 1."""
    side, step = 512, 2.6 / 512
    places = ((torch.arange(side) + 0.5 - side / 2) * step).expand(len(SHAPES), side, side)
    one = torch.ones(len(SHAPES))
    drawn = coverage(places, places.transpose(1, 2), one, 0 * one, torch.arange(len(SHAPES)), step)
    return drawn.sum((1, 2)) * step**2
