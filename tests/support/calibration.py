"""Limits on time that also hold on a slow or busy machine: they grow with what a fixed job takes there."""

import time
from collections.abc import Callable
from typing import TypeVar

REFERENCE = 0.06  # seconds of the job on one core of a quiet two-core machine
FRESH = 1.0  # seconds for which a measurement holds

Answer = TypeVar("Answer")


def limit(seconds: float) -> float:
    """How long it may take here, if `seconds` are allowed on a quiet machine. Load changes: ask again."""
    return seconds * slowness()


def slowness() -> float:
    """How many times longer than on a quiet machine a fixed job takes, at least 1."""
    if time.perf_counter() - _last[0] > FRESH:
        began = time.perf_counter()
        sum(number * number for number in range(1_000_000))
        _last[:] = time.perf_counter(), max(1.0, (time.perf_counter() - began) / REFERENCE)
    return _last[1]


_last = [-FRESH, 1.0]  # when it was measured, and what


def until(question: Callable[[], Answer], seconds: float = 30, pause=time.sleep) -> Answer:
    """The first answer that is true. Fails after `seconds`, or later where everything takes longer."""
    began = time.monotonic()
    while not (answer := question()):
        waited = time.monotonic() - began
        assert waited < seconds or waited < limit(seconds), f"not within {waited:.0f} s: {answer!r}"
        pause(0.05)
    return answer
