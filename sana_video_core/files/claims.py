"""Names of files that are held from before the work until they are written, also against other processes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

from ..errors import FileError
from .atomic import check_place, make_folder, move, written
from .hidden import hidden_folder, reserved

TRIES = 5  # somebody who removes what a dead writer left holds a name for a moment
PAUSE = 0.05  # seconds between them
Result = TypeVar("Result")


@contextmanager
def claim(path: Path | str) -> Iterator[None]:
    """Holds a name in the block.

    Raises FileError, before any work, if somebody else writes a file of this name now, or if none can be
    written: it is tried.
    """
    path = Path(path)
    for tries in range(TRIES, 0, -1):
        with _held(path) as ours:
            if ours:
                yield
                return
        time.sleep(PAUSE if tries > 1 else 0)
    raise FileError(
        f"“{path}” is being written by another program now. Wait until it is finished, or give another name."
    )


@contextmanager
def first_free(paths: Iterable[Path]) -> Iterator[Path]:
    """The first of these paths that nothing has and nobody else is writing, held in the block.

    Raises FileError if no file can be written there.
    """
    for path in paths:
        if os.path.lexists(path):
            continue
        with _held(path) as ours:
            if ours and not os.path.lexists(path):  # nobody finished it meanwhile
                yield path
                return
    raise FileError("None of the names for a new file is free. Give another one.")


def try_folder(folder: Path) -> None:
    """Make a folder if there is none, and try a file in it. Raises FileError."""
    make_folder(folder)
    with written(folder), hidden_folder(folder / "trial") as hidden:
        (hidden / "trial").write_bytes(b"\0")


def numbered(path: Path) -> Iterator[Path]:
    """This path, then the same with -2, -3 and so on at the end of its name."""
    yield path
    for number in count(2):
        ending = f"-{number}{path.suffix}"
        kept = os.fsencode(path.stem)[: 255 - len(ending.encode())].decode(errors="ignore")
        yield path.with_name(f"{kept}{ending}")


def keep_elsewhere(made: Path, path: Path) -> Path:
    """Move a finished file that can't have its name to another: beside it, here, or in the temp folder.

    Raises FileError if there is no such place.
    """
    return written_elsewhere(path, lambda free: move(made, free))[0]


def written_elsewhere(path: Path, write: Callable[[Path], Result]) -> tuple[Path, Result]:
    """What `write` gives for another name than `path`, and that name. Raises FileError."""
    problem = FileError(f"There is no place to keep “{path.name}”.")
    for folder in (path.parent, Path.cwd(), Path(tempfile.gettempdir())):
        try:
            with first_free(numbered(folder / path.name)) as free:
                return free, write(free)
        except FileError as error:
            problem = error
    raise problem


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Whether the name is ours in the block; if so, a file of it can be written."""
    check_place(path)
    with ExitStack() as stack:
        with written(path):
            folder = stack.enter_context(reserved(path))
            if folder is not None:
                trial = folder / path.name  # the name itself may be what this disk doesn't take
                trial.write_bytes(b"\0")
                trial.unlink()
        yield folder is not None
