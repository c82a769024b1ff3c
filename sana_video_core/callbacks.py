"""How long work asks its caller whether to stop, and reports how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .errors import Cancelled

if TYPE_CHECKING:  # the command line starts without torch
    from torch import Tensor


class Progress(NamedTuple):
    """Where the work is after a model call. Chunks and steps count from 1."""

    chunk: int
    chunks: int
    step: int  # of all model calls of a chunk
    steps: int
    latents: Tensor | None  # [B, C, F, H, W] newest estimate of the clean latents in model space, if any


def _never_cancelled() -> bool:
    return False


def _no_report(progress: Progress) -> None:
    """The default: report nothing."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a caller may pass in: a check before every model call, and a report after it.

    `cancelled` may also raise the host's own exception.
    """

    cancelled: Callable[[], bool] = _never_cancelled
    progress: Callable[[Progress], None] = _no_report

    def check(self, where: str) -> None:
        """Raises Cancelled if the caller asked to stop; `where` says how far the work got."""
        if self.cancelled():
            raise Cancelled(f"Stopped {where}. Everything that was finished before is kept.")
