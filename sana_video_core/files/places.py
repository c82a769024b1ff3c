"""What stands at a path. What the system refuses becomes a sentence and never a traceback."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import FileError

MISSING = (FileNotFoundError, NotADirectoryError)


def is_file(path: Path | str) -> bool:
    """Whether a file is there. Raises FileError where the system doesn't let us look."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path | str) -> bool:
    """Whether a folder is there. Raises FileError where the system doesn't let us look."""
    return stat.S_ISDIR(_mode(path))


def same_file(path: Path | str, other: Path | str) -> bool:
    """Whether two paths lead to one file that is there."""
    try:
        return Path(path).samefile(other)
    except (OSError, ValueError):
        return False


def visible_files(folder: Path | str) -> Iterator[Path]:
    """The files under a folder, without those that are hidden or that the system doesn't let us see."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _mode(path: Path | str) -> int:
    try:
        return os.stat(path).st_mode  # noqa: PTH116  pathlib's own tests raise before Python 3.14
    except MISSING:
        return 0
    except (OSError, ValueError) as error:  # no entry, a name that is too long, a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"“{path}” cannot be opened ({reason}). Check its name, its folder, and whether you may enter it."
        ) from error
