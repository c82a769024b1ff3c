"""Times of versions of one thing, whose passes alternate. Works on the CPU, so that tests can run it."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

GIB = 2**30


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices_of(*devices: torch.device) -> list[torch.device]:
    """The CUDA devices among them, each once."""
    return [device for device in dict.fromkeys(devices) if device.type == "cuda"]


def wait(*devices: torch.device) -> None:
    """Until all that was asked of the devices is done."""
    for device in devices_of(*devices):
        torch.cuda.synchronize(device)


def timed(call: Callable[[], Any], *devices: torch.device) -> tuple[Any, float, list[float]]:
    """(what the call returns, seconds, the most GiB that were allocated on each CUDA device)."""
    cuda = devices_of(*devices)
    if cuda:
        gc.collect()
    wait(*cuda)
    for device in cuda:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    result = call()
    wait(*cuda)
    seconds = time.perf_counter() - began
    return result, seconds, [torch.cuda.max_memory_allocated(device) / GIB for device in cuda]


def in_turns(
    calls: Mapping[str, Callable[[], Any]], *devices: torch.device, passes: int, warm: int = 1
) -> dict[str, dict[str, Any]]:
    """Median, spread and peak of each call: one pass of every version, then the next pass.

    The peak is that above what was allocated before the call: other versions' weights don't count, nor do
    its own. A version that can't run is left out; its entry is the error.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    peaks, failed = dict.fromkeys(calls, 0.0), {}
    for number in range(warm + passes):
        for name in [name for name in calls if name not in failed]:
            held = sum(torch.cuda.memory_allocated(device) for device in devices_of(*devices)) / GIB
            try:
                _, seconds, peak = timed(calls[name], *devices)
            except RuntimeError as error:  # out of memory, or what a compiler can't do
                failed[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
                continue
            if number >= warm:
                times[name].append(seconds)
                peaks[name] = sum(peak) - held if peak else 0.0
    return failed | {
        name: {
            "ms": 1000 * statistics.median(taken),
            "spread": (max(taken) - min(taken)) / statistics.median(taken),
            "peak_gib": peaks[name],
        }
        for name, taken in times.items()
        if name not in failed
    }
