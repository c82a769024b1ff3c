"""Text files that people edit."""

from __future__ import annotations

import codecs
from pathlib import Path

from ..errors import FileError

# editors and consoles on Windows put a mark in front; UTF-32's begins as UTF-16's
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """A file's text, in UTF-8 or as its byte-order mark says. Raises FileError."""
    try:
        return decode_text(path.read_bytes())
    except UnicodeDecodeError as error:
        raise FileError(f"“{path}” is no text in UTF-8 ({error.reason}). Save it as UTF-8.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"“{path}” cannot be opened ({reason}). Check its name, its folder, and whether you may read it."
        ) from error


def decode_text(content: bytes) -> str:
    """Text of bytes, in UTF-8 or as their byte-order mark says. Raises UnicodeDecodeError."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding)
