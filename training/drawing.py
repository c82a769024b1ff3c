"""Draws stories: a shaded shape with its shadow over a floor, with soft edges; on any device.

B stories, T frames, H W rows and columns. A picture is a torus: what leaves on one side enters on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .scenes import SHAPES, Track

LIGHT = (-0.5, -0.7)  # the direction of the light
FLOOR_ROWS = (0.72, 1.28)  # the floor's brightness in its first and its last row
SHADOW = (0.025, 0.045)  # where the shadow falls, in heights of the picture


def draw(track: Track, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Frames [B, 3, T, H, W] in [-1, 1], float32."""
    B, T = track.radius.shape
    parts = [tensor.to(device, torch.float32).flatten(0, 1) for tensor in track[:5]]
    shape = track.shape.to(device)[:, None].expand(B, T).flatten()
    centre, radius, angle, colour, floor = parts
    x, y = _offsets(centre, height, width)
    edge = 1.0 / height
    picture = _floor(floor, height, width)
    shadow = coverage(x - SHADOW[0], y - SHADOW[1], radius, angle, shape, 6 * edge)
    picture = picture * (1 - 0.45 * shadow[:, None])
    body = coverage(x, y, radius, angle, shape, edge)[:, None]
    shade = 1 + 0.22 * (LIGHT[0] * x + LIGHT[1] * y) / radius[:, None, None]
    lit = (colour[:, :, None, None] * shade[:, None]).clamp(0, 1)
    picture = picture + (lit - picture) * body
    return (2 * picture - 1).unflatten(0, (B, T)).transpose(1, 2)


def _offsets(centre: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Each pixel's offset from the shape's centre [N, H, W], the short way around the torus."""
    aspect = width / height
    xs = (torch.arange(width, device=centre.device) + 0.5) / height
    ys = (torch.arange(height, device=centre.device) + 0.5) / height
    x = torch.remainder(xs - centre[:, :1] + aspect / 2, aspect) - aspect / 2
    y = torch.remainder(ys - centre[:, 1:] + 0.5, 1.0) - 0.5
    return x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)


def _floor(colour: Tensor, height: int, width: int) -> Tensor:
    """A floor [N, 3, H, W], lighter towards the viewer."""
    rows = torch.linspace(*FLOOR_ROWS, height, device=colour.device)
    return (colour[:, :, None, None] * rows[:, None]).expand(-1, -1, -1, width).clamp(0, 1)


def coverage(x: Tensor, y: Tensor, radius: Tensor, angle: Tensor, shape: Tensor, soft: float) -> Tensor:
    """How much of each pixel [N, H, W] the shape covers; its edge is `soft` wide."""
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    size = radius[:, None, None]
    u, v = (cosine * x + sine * y) / size, (cosine * y - sine * x) / size
    covered = torch.zeros_like(u)
    for index, name in enumerate(SHAPES):
        mine = shape == index
        if bool(mine.any()):
            distance = DISTANCES[name](u[mine], v[mine]) * size[mine]
            covered[mine] = (0.5 - distance / soft).clamp(0, 1)
    return covered


def _ball(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.95


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.78).abs() - 0.27


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.84


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Three sides, with one corner up."""
    slanted = x.abs() * math.cos(math.pi / 6) - y * 0.5
    return torch.maximum(slanted, y) - 0.56


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: the straight edge from a point to the next dent, repeated by symmetry ten times."""
    turn = 2 * math.pi / 5
    around = torch.atan2(x, -y)
    around = (torch.remainder(around + turn / 2, turn) - turn / 2).abs()
    r = torch.hypot(x, y)
    px, py = r * around.sin(), r * around.cos()
    outer, inner = 1.18, 0.56
    dent = inner * math.sin(turn / 2), inner * math.cos(turn / 2)
    edge = dent[0], dent[1] - outer
    return ((py - outer) * edge[0] - px * edge[1]) / math.hypot(*edge)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    upright = torch.maximum(x - 0.34, y - 1.02)
    return torch.minimum(upright, torch.maximum(y - 0.34, x - 1.02))


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ball": _ball,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def draw_pieces(
    track: Track, height: int, width: int, frames: int, device: torch.device | str
) -> Iterator[Tensor]:
    """The same frames, the first one alone and then `frames` at a time, as an encoder takes them."""
    total, start = track.radius.shape[1], 0
    while start < total:
        end = 1 if start == 0 else min(total, start + frames)
        part = Track(*(tensor[:, start:end] for tensor in track[:5]), shape=track.shape)
        yield draw(part, height, width, device)
        start = end
