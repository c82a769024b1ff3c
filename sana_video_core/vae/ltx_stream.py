"""A row of layers over a clip, piece by piece and depth first: memory doesn't grow with the clip.

Each layer's output goes through all later layers before the layer sees the next piece. At the end of a clip,
layers that look ahead return more frames than they took. These go on in pieces, too, of one latent frame's
worth, and only the last piece is the end: otherwise the end would need as much memory as the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

# a piece, what the layer kept (None at the start), whether the piece is the end -> output (None for none) and
# what to keep
Run: TypeAlias = Callable[[Any, Any, bool], tuple[Any, Any]]


def divided(y: Tensor, frames: int) -> list[Tensor]:
    """y [B, C, T, H, W] in pieces of at most so many frames; copies let go of the whole while the first goes
    on.
    """
    return [y] if y.shape[2] <= frames else [part.clone() for part in y.split(frames, dim=2)]


class Stage(NamedTuple):
    """A layer, the most frames of its output that go on at once, and how it is divided into so many."""

    run: Run
    frames: int
    divide: Callable[[Any, int], list[Any]] = divided


def depth_first(stages: Sequence[Stage], pieces: Iterable[tuple[Tensor, bool]]) -> Iterator[Tensor]:
    """What the last stage makes of a clip's pieces [B, C, T, H, W]; with each, whether it is the end."""
    kept: list[Any] = [None] * len(stages)
    for piece in pieces:
        waiting: list[tuple[int, Any, bool]] = [(0, *piece)]
        while waiting:
            place, x, end = waiting.pop()
            if place == len(stages):
                yield x
                continue
            stage = stages[place]
            y, kept[place] = stage.run(x, kept[place], end)
            if y is None:
                continue
            parts = stage.divide(y, stage.frames)
            waiting += [(place + 1, part, False) for part in reversed(parts)]
            if end:  # of which the last part, the first to wait, is the end
                waiting[-len(parts)] = (place + 1, parts[-1], True)
            del x, y, parts  # before the next layer runs


def regrouped(pieces: Iterable[Tensor], first: int, rest: int) -> Iterator[Tensor]:
    """The same frames, so many in the first piece and in each later one."""
    waiting: list[Tensor] = []
    wanted = first
    for piece in pieces:
        waiting.append(piece)
        while sum(part.shape[2] for part in waiting) >= wanted:
            line = waiting[0] if len(waiting) == 1 else torch.cat(waiting, dim=2)
            waiting = [line[:, :, wanted:].clone()] if line.shape[2] > wanted else []
            yield line[:, :, :wanted]
            wanted = rest


def with_end(pieces: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each piece, and whether it is the last one, which takes a look at the next."""
    coming = iter(pieces)
    piece = next(coming, None)
    while piece is not None:
        following = next(coming, None)
        yield piece, following is None
        piece = following


def without_end(pieces: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """The same for layers that don't look ahead: nothing is waited for."""
    return ((piece, False) for piece in pieces)
