"""Processes of their own that need no start of Python: copies of this one, where the system has `fork`."""

import gc
import os
import sys
from pathlib import Path

from .calibration import until


def begin(work, folder: Path, said: str = os.devnull) -> int:
    """The id of a process that works in the folder; what it prints is in the file `said`."""
    folder.mkdir(exist_ok=True)
    sys.stdout.flush()
    gc.collect()  # the child would free it, and wait for threads that it hasn't
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.chdir(folder)
        file = os.open(said, os.O_RDWR | os.O_CREAT)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False, encoding="utf-8")
        status = work()
        sys.stdout.flush()
    finally:
        os._exit(status)


def ended(child: int, seconds: float = 60) -> int:
    """The exit status of a process that was begun; the number of the signal that killed it is negative."""
    found: list[int] = []

    def over() -> bool:
        number, status = os.waitpid(child, os.WNOHANG)
        found[:] = [status]
        return number == child

    until(over, seconds)
    return os.waitstatus_to_exitcode(found[0])
