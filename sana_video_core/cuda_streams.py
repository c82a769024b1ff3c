"""CUDA streams of a thread's own, so that its work doesn't wait for what another thread asked a GPU for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch


def cuda_devices(*devices: torch.device) -> list[torch.device]:
    """The CUDA devices among them, each once; the last one stays the last."""
    return list(dict.fromkeys(device for device in devices if device.type == "cuda"))


@contextmanager
def own_streams(
    devices: list[torch.device], purpose: str, *, urgent: bool = False
) -> Iterator[list[torch.cuda.Stream]]:
    """In the block, this thread works on streams of its own; the last device is the current one.

    Two threads of one `purpose` share them. What is `urgent` is begun before what waits in other streams.
    """
    streams = [_stream(device, purpose, urgent) for device in devices]
    with ExitStack() as stack:
        for stream in streams:
            stack.enter_context(torch.cuda.stream(stream))
        yield streams


@cache
def _stream(device: torch.device, purpose: str, urgent: bool) -> torch.cuda.Stream:
    """Always the same: PyTorch gives out 32 in turn, so a new one may be somebody's after a while."""
    return torch.cuda.Stream(device, priority=-1 if urgent else 0)
