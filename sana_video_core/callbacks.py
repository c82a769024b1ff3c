"""What long work asks its caller before every model call, and reports after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .errors import Cancelled

if TYPE_CHECKING:  # the command line starts without torch
    from torch import Tensor


class Progress(NamedTuple):
    """Where the work is after one model call.

    Steps and chunks count from 1; `step` runs over all calls of a chunk.
    """

    chunk: int
    chunks: int
    step: int
    steps: int
    # [B, C, F, H, W] newest estimate of the clean latents, model space; None where there is none
    latents: Tensor | None


def _never_cancelled() -> bool:
    return False


def _no_report(progress: Progress) -> None:
    """The default: nobody is waiting for news."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """`cancelled` is asked before every model call (it may also raise the host's own exception); `progress`
    is called after every one.
    """

    cancelled: Callable[[], bool] = _never_cancelled
    progress: Callable[[Progress], None] = _no_report

    def check(self, where: str) -> None:
        """Raises Cancelled, naming `where` the work stopped, when the caller says so."""
        if self.cancelled():
            raise Cancelled(f"Stopped {where}. Everything that was finished before is kept.")
