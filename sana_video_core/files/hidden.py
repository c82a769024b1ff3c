"""Hidden folders for what isn't finished: each belongs to one writer, for as long as that lives.

A folder holds a lock file, locked by its writer. The system drops a lock with its process, however that ends;
so a folder whose lock is free is what a killed writer left behind, and the next writer of the name removes
it. Names that differ in numbers and signs count as one name: a killed `state_00002_` must not stay
because `state_00003_` was finished.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2s
from pathlib import Path
from uuid import uuid4

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = "lock"
TRIES = 20
NAME_KEPT = 40  # bytes of the file's name in the folder's, which must not get too long
BUSY = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK}


@contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that no other writer uses; it is removed when the block ends.

    What dead writers of this name left behind is removed first. Raises OSError if there can be no folder.
    """
    remove_dead(path)
    for _ in range(TRIES):
        with _ours(Path(f"{_beginning(path)}.{uuid4().hex[:8]}")) as folder:
            if folder is not None:
                yield folder
                return
    raise OSError(errno.EBUSY, f"what is written there disappears (tried {TRIES} times)")


@contextmanager
def reserved(path: Path) -> Iterator[Path | None]:
    """A hidden folder that stands for the name itself, or None while somebody else who lives has it.

    Raises OSError if there can be no folder.
    """
    remove_dead(path)
    with _ours(Path(f"{_beginning(path)}.{_digest(path.name)}.name")) as folder:
        yield folder


def remove_dead(path: Path) -> None:
    """Remove the hidden folders of this name whose writers no longer live."""
    for folder in list(path.parent.glob(f".*.{_digest(_letters(path.name))}.*")):
        with suppress(OSError):  # gone meanwhile, or not ours to remove
            handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            if _lock(handle):
                _remove(folder, handle)
            else:
                os.close(handle)


def living(path: Path) -> int:
    """How many hidden folders of this name have writers that live; those of dead ones are removed."""
    remove_dead(path)
    return sum(1 for _ in path.parent.glob(f".*.{_digest(_letters(path.name))}.*"))


def _beginning(path: Path) -> Path:
    """What the names of all hidden folders of a name begin with; short, whatever the name."""
    kept = os.fsencode(path.name)[:NAME_KEPT].decode(errors="ignore")
    return path.with_name(f".{kept}.{_digest(_letters(path.name))}")


def _letters(name: str) -> str:
    return re.sub(r"[\W\d_]+", "", name)


def _digest(name: str) -> str:
    return blake2s(os.fsencode(name), digest_size=4).hexdigest()


@contextmanager
def _ours(folder: Path) -> Iterator[Path | None]:
    """The folder, locked in the block and then removed, or None if another writer has it."""
    handle = _taken(folder)
    try:
        yield None if handle is None else folder
    finally:
        if handle is not None:
            _remove(folder, handle)


def _taken(folder: Path) -> int | None:
    """An open file that keeps the folder ours until it is closed."""
    folder.mkdir(exist_ok=True)
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:  # somebody took the new folder for a dead one
        return None
    except BaseException:  # also Ctrl-C
        with suppress(OSError):
            folder.rmdir()
        raise
    # None: there are no locks on this disk, and nothing there is ever called dead. A file without a link was
    # removed, as a dead writer's, before we had the lock.
    if _lock(handle) is not False and os.fstat(handle).st_nlink:
        return handle
    os.close(handle)
    return None


def _lock(handle: int) -> bool | None:
    """Whether the file is locked now, by us and nobody else; None on a disk that has no locks."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in BUSY else None
    return True


def _remove(folder: Path, handle: int) -> None:
    """Remove a folder that is ours, in an order in which no other writer can lose its own."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # Ctrl-C in the middle of it
        if os.fstat(handle).st_nlink:  # the lock is still there, so the folder is still ours
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # or somebody else's by now
            folder.rmdir()
        raise
    finally:
        os.close(handle)
    if sys.platform == "win32":  # there, an open file stays
        shutil.rmtree(folder, ignore_errors=True)
