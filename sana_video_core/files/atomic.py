"""Writes files atomically: complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import FileError
from .hidden import hidden_folder
from .places import is_folder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_NAME = (errno.ENAMETOOLONG, errno.EINVAL)
NO_ENTRY = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def atomic_path(path: Path | str, hidden: Path | None = None) -> Iterator[Path]:
    """A temporary path, renamed to `path` if the block succeeds and removed if it fails.

    Writers of one name don't disturb each other; the file is of the one that ends last. What dead ones left
    goes with the next of this name, or of the name `hidden` on the same disk. Raises FileError, with the
    system's reason, if the file cannot be written; an older file then stays.
    """
    path = Path(path)
    with written(path):
        check_place(path)
        with hidden_folder(hidden or path) as folder:
            with whole(folder / "new") as temporary:  # no suffix: it must be in no list of models or states
                yield temporary
            temporary.replace(path)


@contextmanager
def whole(temporary: Path) -> Iterator[Path]:
    """A new file in a hidden folder; after the block it is on the disk, and others may read it."""
    temporary.touch()
    mode = temporary.stat().st_mode
    yield temporary
    temporary.chmod(mode)  # safetensors makes a file that only its owner can read
    flush(temporary)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turns what the system or safetensors raise in the block into a FileError about `path`."""
    try:
        yield
    except FileError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error  # without the temporary name
        raise FileError(
            f"“{path}” could not be written ({reason}). Nothing was left behind; {advice(error)}."
        ) from error


def advice(error: Exception) -> str:
    """What to do about a refusal of the system, as the end of a sentence."""
    number = getattr(error, "errno", None)
    if number in NO_ENTRY:
        return "choose a folder that you may write to"
    if number in NO_NAME:
        return "give it a shorter name, without special characters"
    if number in NO_ROOM or number is None:  # safetensors tells no number
        return "free some space or choose another folder, and try again"
    return "choose another place, and try again"


def check_place(path: Path) -> None:
    """Raises FileError, before any work, if there can be no file of this name."""
    if not is_folder(path.parent):
        raise FileError(f"“{path}” cannot be written: there is no folder “{path.parent}”. Create it first.")
    if is_folder(path):
        raise FileError(f"“{path}” cannot be written: it is a folder. Give the name of a file.")
    if _is_kept_by_another(path):
        raise FileError(
            f"“{path}” cannot be written: the file there is another user's, and in this folder nobody else "
            "may replace it. Give another name."
        )


def _is_kept_by_another(path: Path) -> bool:
    """Whether a folder like /tmp lets only another user replace the file of this name."""
    if sys.platform == "win32":
        return False
    try:
        file, folder = path.lstat(), path.parent.stat()
    except OSError:
        return False
    return bool(folder.st_mode & stat.S_ISVTX) and os.geteuid() not in (0, file.st_uid, folder.st_uid)


def make_folder(folder: Path) -> None:
    """Make a folder, and those it lies in, where there is none. Raises FileError."""
    if not is_folder(folder):
        with written(folder):
            folder.mkdir(parents=True, exist_ok=True)


def move(source: Path, target: Path) -> None:
    """Move a file, also to another disk; its new name never holds half of it. Raises FileError."""
    try:
        source.replace(target)
    except OSError:
        with atomic_path(target) as new:
            shutil.copyfile(source, new)
        source.unlink()


def flush(path: Path) -> None:
    """Sync to the disk: a file that is renamed before its content is there is empty after a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
