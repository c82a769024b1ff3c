"""Spatial tiles for pictures that are too large for the VAE's memory: cut, process, blend.

Rows and columns are counted in latents; `scale` is how many of a tensor's pixels make one latent. All that
this file knows about the network is that it may have a cache. Attention sees only its tile, so a tiled result
differs a little from an untiled one. Source: the tiling of AutoencoderKLWan in diffusers, with the same
default numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from ..errors import InputError, StateError
from .layers import Cache

ROWS, COLUMNS = -2, -1


@dataclass(frozen=True)
class Tiling:
    """Side of a square tile, and how far neighbours overlap, in latents."""

    tile: int = 32
    overlap: int = 8

    def __post_init__(self) -> None:
        if self.tile < 1 or not 0 <= self.overlap < self.tile:
            raise InputError(
                f"Tiles of {self.tile} latents with an overlap of {self.overlap} cannot cover a picture; "
                "a tile is at least 1, and the overlap lies between 0 and tile - 1. Try 32 and 8."
            )

    @property
    def stride(self) -> int:
        """Latents from the start of one tile to the start of the next."""
        return self.tile - self.overlap


class Window(NamedTuple):
    """One tile's place in the picture, in latents."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, x: Tensor, scale: int = 1) -> Tensor:
        """The view of x [..., rows * scale, columns * scale] inside this window."""
        top, left, bottom, right = (edge * scale for edge in self)
        return x[..., top:bottom, left:right]


class TiledCache(NamedTuple):
    """The cache of a tiled stream: one per tile, in the order of the windows."""

    tiles: tuple[Cache, ...]


StreamCache: TypeAlias = Cache | TiledCache
# a latent frame and the cache of those before it (checked by the network) -> pixels and the next cache
Step: TypeAlias = Callable[[Tensor, Any], tuple[Tensor, Cache]]


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles of one picture lie, and how they become one picture again."""

    rows: int
    columns: int
    tiling: Tiling
    least: int = 1  # latents of a tile's side that the network needs

    @property
    def windows(self) -> tuple[Window, ...]:
        """Row by row; the last ones end at the border. A picture no larger than a tile is one window."""
        side = self.tiling.tile
        if self.rows <= side and self.columns <= side:
            return (Window(0, 0, self.rows, self.columns),)
        return tuple(
            Window(top, left, bottom, right)
            for top, bottom in self._spans(self.rows)
            for left, right in self._spans(self.columns)
        )

    def _spans(self, length: int) -> list[tuple[int, int]]:
        """Where windows begin and end on an axis. The one before too small a last one goes to the border."""
        starts = list(range(0, length, self.tiling.stride))
        while len(starts) > 1 and length - starts[-1] < self.least:
            starts.pop()
        ends = [min(start + self.tiling.tile, length) for start in starts[:-1]]
        return list(zip(starts, [*ends, length], strict=True))

    def blend(self, tiles: Iterable[Tensor], scale: int) -> Tensor:
        """The picture [..., rows * scale, columns * scale] of one tile per window.

        A tile fades in over the tile above it, then over the tile to its left, both already blended. Tiles
        are taken one by one, and only the overlaps of earlier ones are kept.
        """
        windows = self.windows
        if len(windows) == 1:
            return next(iter(tiles))
        overlap = self.tiling.overlap * scale
        picture: Tensor | None = None
        above: dict[int, Tensor] = {}  # by the tile's left edge: the last rows of the tile above
        beside: dict[int, Tensor] = {}  # by the tile's top edge: the last columns of the tile to the left
        for window, tile in zip(windows, tiles, strict=True):
            if picture is None:
                picture = tile.new_empty(*tile.shape[:-2], self.rows * scale, self.columns * scale)
            if window.top > 0:
                tile = fade_in(tile, above[window.left], ROWS)
            if window.left > 0:
                tile = fade_in(tile, beside[window.top], COLUMNS)
            above[window.left] = ending(tile, overlap, ROWS)
            beside[window.top] = ending(tile, overlap, COLUMNS)
            # whole: the next tiles will overwrite the overlaps
            window.of(picture, scale).copy_(tile)
        return cast(Tensor, picture)  # there is always a window

    def step(
        self, work: Step, x: Tensor, cache: StreamCache | None, scale: int
    ) -> tuple[Tensor, StreamCache]:
        """One step of a stream in every window of x [..., rows, columns] -> picture and next cache."""
        windows = self.windows
        if len(windows) == 1:
            return work(x, cache)
        pasts = self._pasts(cache, len(windows))
        steps = [work(window.of(x), past) for window, past in zip(windows, pasts, strict=True)]
        return self.blend((y for y, _ in steps), scale), TiledCache(tuple(kept for _, kept in steps))

    @staticmethod
    def _pasts(cache: StreamCache | None, count: int) -> tuple[Cache | None, ...]:
        if cache is None:
            return (None,) * count
        if isinstance(cache, TiledCache) and len(cache.tiles) == count:
            return cache.tiles
        raise StateError(
            f"This cache does not belong to a clip in {count} tiles. "
            "Keep the size and the tiling with which the clip began, or begin a clip without a cache."
        )


def tile_plan(rows: int, columns: int, tiling: Tiling | None) -> TilePlan:
    """The plan for a picture of rows x columns latents; without tiling it is one window."""
    return TilePlan(rows, columns, tiling or Tiling(tile=max(rows, columns), overlap=0))


def ending(tile: Tensor, length: int, axis: int) -> Tensor:
    """A copy of the last `length` lines of a tile along an axis, or of all if there are fewer."""
    length = min(length, tile.shape[axis])
    return tile.narrow(axis, tile.shape[axis] - length, length).clone()


def fade_in(tile: Tensor, before: Tensor, axis: int) -> Tensor:
    """A new tensor: the tile, with its first lines fading in over the last lines of the tile before it.

    tile [..., H, W], before the same except along the axis: line k of e becomes before * (1 - k / e) + tile *
    k / e.
    """
    length = min(before.shape[axis], tile.shape[axis])
    before = before.narrow(axis, before.shape[axis] - length, length)
    start, rest = tile.split((length, tile.shape[axis] - length), dim=axis)
    ramp = torch.arange(length, device=tile.device, dtype=torch.float32) / max(length, 1)
    if axis == ROWS:
        ramp = ramp.unsqueeze(1)
    mixed = before * (1 - ramp) + start * ramp
    return torch.cat((mixed.to(tile.dtype), rest), dim=axis)
