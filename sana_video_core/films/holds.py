"""Who is using a store: films hold it together, pruning holds it alone. Without torch.

Each film has a locked hidden folder of its own, and so has pruning. Both first take theirs and then look for
the other's, so at least one of two that begin at the same moment sees the other and steps back. The system
drops a lock with its process; nothing that a killed one left counts (files/hidden.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import FileError
from ..files.atomic import make_folder, written
from ..files.hidden import hidden_folder, living
from .layout import check_store, make_store

WAIT = 10.0  # seconds that a film waits for pruning to end
PATIENCE = 1.0  # seconds that pruning waits for who only looks whether it may begin
PAUSE = 0.05


@contextmanager
def held(folder: Path, wait: float = WAIT) -> Iterator[None]:
    """Holds the store in the block, together with other films; the store is made where there is none.

    Raises FileError if it can't be written, or is still being pruned after so many seconds.
    """
    make_store(folder)
    film, pruning = _names(folder)
    until = time.monotonic() + wait
    while True:
        with _taken(film):
            if not living(pruning):
                yield
                return
        if time.monotonic() > until:
            raise FileError(
                f"The store “{folder}” is being pruned by another program. Wait until that has ended, "
                "and try again."
            )
        time.sleep(PAUSE)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the store in the block while nobody else does. Raises FileError if a film is being made."""
    check_store(folder)
    film, pruning = _names(folder)
    with _taken(pruning):
        until = time.monotonic() + PATIENCE
        while living(film) or living(pruning) > 1:
            if time.monotonic() < until:
                time.sleep(PAUSE)
                continue
            raise FileError(
                f"The store “{folder}” is in use: a film is being made, or another program is pruning. Wait "
                f"until that has ended. Nothing was taken. (Who uses it is in “{film.parent}”.)"
            )
        yield


def _names(folder: Path) -> tuple[Path, Path]:
    holders = folder / "holders"
    make_folder(holders)
    return holders / "film", holders / "prune"


@contextmanager
def _taken(name: Path) -> Iterator[None]:
    """A hidden folder that stands for this user of the store, in the block."""
    with ExitStack() as stack:
        with written(name):
            stack.enter_context(hidden_folder(name))
        yield
