"""The loop of every training stage: steps until they are done or time is up, a log, checkpoints."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from .checkpoints import load_parts, save_parts
from .optimiser import Optimiser

SHOWN = 25  # steps between two lines of the log
KEPT = 500  # steps between two checkpoints
ASKED = 10  # steps between two checks of several processes whether time is up


def train(
    name: str,
    optimiser: Optimiser,
    step: Callable[[int], Mapping[str, Tensor | float]],
    *,
    folder: Path,
    until: float,
) -> bool:
    """Call `step(number)`, which leaves gradients, until all steps are done. Returns whether they are.

    Resumes from the parts in `folder` if there are any. Stops at the moment `until` (of time.monotonic), or
    after Ctrl-C and the step in progress. Saves the parts then and every KEPT steps. NAME.jsonl collects the
    means of what `step` returns; its tensors are only read when a line is due.
    Raises KeyboardInterrupt after Ctrl-C, with everything saved.
    """
    before = load_parts(folder, name)
    if before is not None:
        optimiser.load(before)
    sums: dict[str, Tensor | float] = {}
    began, shown = time.monotonic(), optimiser.done
    with _heard() as stop:
        while optimiser.done < optimiser.steps and not _over(until, optimiser.done, stop):
            values = step(optimiser.done)
            values = {**values, "gradient": optimiser.update()}
            # steps of different kinds return different values
            sums |= {key: sums.get(key, 0.0) + value for key, value in values.items()}
            if optimiser.done % SHOWN == 0:
                means = {
                    key: round(float(value) / (optimiser.done - shown), 5) for key, value in sums.items()
                }
                line = {"step": optimiser.done, **means, "seconds": round(time.monotonic() - began, 1)}
                _log(folder / f"{name}.jsonl", line)
                sums, shown = {}, optimiser.done
            if optimiser.done % KEPT == 0 and optimiser.done < optimiser.steps:
                _keep(folder, name, optimiser)
        _keep(folder, name, optimiser)
    if stop:
        raise KeyboardInterrupt
    return optimiser.done >= optimiser.steps


def _keep(folder: Path, name: str, optimiser: Optimiser) -> None:
    if _first():
        save_parts(folder, name, optimiser.state())


@contextmanager
def _heard() -> Iterator[list[int]]:
    """Ctrl-C is added to a list, so that it doesn't interrupt a step."""
    stop: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, lambda number, _: stop.append(number))
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _over(until: float, step: int, stop: list[int]) -> bool:
    """Whether the first process says that time is up; all have to stop at the same step."""
    over = bool(stop) or time.monotonic() > until
    if not dist.is_initialized():
        return over
    if step % ASKED:
        return False
    answer = [over]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


def _log(path: Path, line: dict[str, float]) -> None:
    if _first():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
