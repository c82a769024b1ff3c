"""Writing a file so that its name never holds half of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from ..errors import FileError

NAME_KEPT = 40  # letters of a name that its temporary file shows: a whole long name would become too long


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path in the folder of `path`; renamed to it when the block ends well, removed when it does
    not.

    Raises FileError, with the system's reason, when the file cannot be written; an older file then stays.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        _check_place(path)
        temporary = _new_file_beside(path)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors puts a file there that only its owner can read
        _flush(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        if isinstance(error, FileError):
            raise
        reason = getattr(error, "strerror", None) or error  # without the temporary name
        raise FileError(
            f"“{path}” could not be written ({reason}). Nothing was left behind; free some space or choose "
            "another folder, and try again."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _check_place(path: Path) -> None:
    """Raises FileError, before any work, when there can be no file of this name."""
    if not path.parent.is_dir():
        raise FileError(f"“{path}” cannot be written: there is no folder “{path.parent}”. Create it first.")
    if path.is_dir():
        raise FileError(f"“{path}” cannot be written: it is a folder. Give the name of a file.")


def _new_file_beside(path: Path) -> Path:
    """An empty file with a name of its own, and the permissions that any new file gets here."""
    new = path.with_name(f".{path.name[:NAME_KEPT]}.{uuid4().hex}{path.suffix}")
    new.touch(exist_ok=False)
    return new


def _flush(path: Path) -> None:
    """Bring the content to the disk: a name that gets there before its content is empty after a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
