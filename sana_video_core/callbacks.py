"""What a host may supply to long work: a question before every model call, and news after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .config import Family, TransformerConfig
from .errors import Cancelled


class Progress(NamedTuple):
    """News after one model call. Steps and chunks count from 1; `step` runs over all calls of a chunk."""

    chunk: int
    chunks: int
    step: int
    steps: int
    latents: (
        Tensor | None
    )  # [B, C, F, H, W] newest estimate of the clean latents, model space; None after others


class StreamModel(Protocol):
    """What a stream needs of a model: `SanaVideo` itself, or a host's way to call it (offloaded, patched, compiled)."""

    config: TransformerConfig
    family: Family
    fingerprint: str | None

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def prepare_text(self, text: Tensor, text_mask: Tensor | None = None) -> Any: ...
    def __call__(
        self, latents: Tensor, timesteps: Tensor, text: Any, *, memory: Any, first_frame: int
    ) -> Tensor: ...
    def absorb(
        self, latents: Tensor, text: Any, *, memory: Any, first_frame: int, window: int | None
    ) -> Any: ...
    def state_dict(self) -> dict[str, Tensor]: ...


def _nobody_cancels() -> bool:
    return False


def _nobody_listens(progress: Progress) -> None:
    """The default listener: work without a host has no one to tell."""


@dataclass(frozen=True, slots=True)
class Host:
    """`cancelled` is asked before every model call (it may also raise the host's own exception); `progress` is
    told after every one."""

    cancelled: Callable[[], bool] = _nobody_cancels
    progress: Callable[[Progress], None] = _nobody_listens

    def check(self, where: str) -> None:
        """Raises Cancelled, naming `where` the work stopped, when the host says so."""
        if self.cancelled():
            raise Cancelled(f"Stopped {where}. Everything that was finished before is kept.")
