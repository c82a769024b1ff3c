"""Sentences about files that cannot be opened or read."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from ..errors import FileError

REASON_LENGTH = 200


def closed(path: Path, error: OSError) -> FileError:
    """The system doesn't open a file."""
    return FileError(
        f"“{path}” cannot be opened ({error.strerror or error}). "
        "Check its name, its folder, and whether you may read it."
    )


def damaged(path: Path, error: Exception) -> FileError:
    """A library doesn't read a file."""
    # other errors are about Python, or advise loading the file unsafely
    words = str(error).strip() if isinstance(error, RuntimeError | SafetensorError) else ""
    reason = words.splitlines()[0].split(". ")[0][:REASON_LENGTH] if words else "its content makes no sense"
    return FileError(
        f"“{path.name}” cannot be read ({reason}): it is damaged, incomplete or of another kind. "
        "Copy or download it again."
    )
