"""Limits on time that hold on a slow or busy machine: they grow with what a fixed job takes there at the moment."""

import time

REFERENCE = 0.06  # seconds of the job on one core of a quiet two-core machine


def limit(seconds: float) -> float:
    """What may take `seconds` on a quiet machine may take here. Ask close to what is measured: load changes."""
    return seconds * slowness()


def slowness() -> float:
    """How many times longer than on a quiet machine a fixed job takes, at least 1."""
    began = time.perf_counter()
    sum(number * number for number in range(1_000_000))
    return max(1.0, (time.perf_counter() - began) / REFERENCE)
