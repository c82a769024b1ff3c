"""What every stage of a training shares: steps until it is done or its time is up, a log, a checkpoint."""

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
ASKED = 10  # steps between two questions of many processes whether time is up


def train(
    name: str,
    optimiser: Optimiser,
    step: Callable[[int], Mapping[str, Tensor | float]],
    *,
    folder: Path,
    until: float,
) -> bool:
    """Call `step(number)`, which leaves gradients, until all steps are done. Returns whether they are.

    It goes on from the parts in `folder` if there are any. At the moment `until` (of time.monotonic), or after Ctrl-C
    and the step in progress, it stops; then, and now and then before, the parts hold all that is needed to go on.
    NAME.jsonl collects the means of what `step` tells, in tensors that nobody waits for before a line is due.
    Raises KeyboardInterrupt after Ctrl-C, with everything kept.
    """
    before = load_parts(folder, name)
    if before is not None:
        optimiser.load(before)
    sums: dict[str, Tensor | float] = {}
    began, shown = time.monotonic(), optimiser.done
    with _heard() as stop:
        while optimiser.done < optimiser.steps and not _over(until, optimiser.done, stop):
            told = step(optimiser.done)
            told = {**told, "gradient": optimiser.update()}
            # steps of different kinds tell different things
            sums |= {key: sums.get(key, 0.0) + value for key, value in told.items()}
            if optimiser.done % SHOWN == 0:
                means = {
                    key: round(float(value) / (optimiser.done - shown), 5) for key, value in sums.items()
                }
                line = {"step": optimiser.done, **means, "seconds": round(time.monotonic() - began, 1)}
                _tell(folder / f"{name}.jsonl", line)
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
    """Ctrl-C is put into a list, and raised by nobody in the middle of a step."""
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
    """Whether the first process says that time is up; all have to stop at the same step. It is asked now and then."""
    over = bool(stop) or time.monotonic() > until
    if not dist.is_initialized():
        return over
    if step % ASKED:
        return False
    answer = [over]
    dist.broadcast_object_list(answer, src=0)
    return answer[0]


def _tell(path: Path, line: dict[str, float]) -> None:
    if _first():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
