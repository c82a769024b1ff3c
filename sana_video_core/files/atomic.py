"""Writes files atomically: complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from ..errors import FileError

NAME_KEPT = 40  # letters of a name in that of its temporary file, which must not get too long


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it if the block succeeds and removed if it fails.

    Raises FileError, with the system's reason, if the file cannot be written; an older file then stays.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        _check_place(path)
        temporary = _new_file_beside(path)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes a file that only its owner can read
        _flush(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        if isinstance(error, FileError):
            raise
        reason = getattr(error, "strerror", None) or error  # without the temporary name
        raise FileError(
            f"“{path}” could not be written ({reason}). "
            "Nothing was left behind; free some space or choose another folder, and try again."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _check_place(path: Path) -> None:
    """Raises FileError, before any work, if there can be no file of this name."""
    if not path.parent.is_dir():
        raise FileError(f"“{path}” cannot be written: there is no folder “{path.parent}”. Create it first.")
    if path.is_dir():
        raise FileError(f"“{path}” cannot be written: it is a folder. Give the name of a file.")


def _new_file_beside(path: Path) -> Path:
    """An empty file with a unique name and the default permissions."""
    new = path.with_name(f".{path.name[:NAME_KEPT]}.{uuid4().hex}{path.suffix}")
    new.touch(exist_ok=False)
    return new


def _flush(path: Path) -> None:
    """Sync to the disk: a file that is renamed before its content is there is empty after a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
