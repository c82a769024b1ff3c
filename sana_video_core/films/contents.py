"""Files by their content: hashed once, and found again by path, size and time."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from ..config import TransformerConfig
from ..errors import FileError
from ..files.places import is_folder, visible_files
from ..files.refusals import closed
from ..files.weight_names import SUFFIXES
from .keys import json_digest
from .store import Store

logger = logging.getLogger("sana_video")
BUFFER = 16 << 20  # bytes that are read at once
CONFIGS = (".json", ".yaml", ".yml", ".model", ".txt")  # also of tokenizers
SETTLED = 2.0  # seconds: a file that changed later may change again with no other time


def _no_report(done: int, total: int) -> None:
    """The default: report nothing."""


def content_of(path: Path | str, store: Store, progress: Callable[[int, int], None] = _no_report) -> str:
    """Hex sha256 of a file's bytes; of a folder, of the names and bytes of its weights and configs.

    `progress` is told the bytes so far and in all, and may raise to stop. Raises FileError.
    """
    many = is_folder(path)
    path = Path(os.path.realpath(path))
    files = sorted(_decisive(path)) if many else [path]
    if not files:
        raise FileError(f"The folder “{path}” holds no weights and no configs. Choose another one.")
    sizes = [_state(file).st_size for file in files]
    total, contents = sum(sizes), []
    for i, file in enumerate(files):
        before = sum(sizes[:i])
        contents.append(_content(file, store, lambda done, before=before: progress(before + done, total)))
    if not many:
        return contents[0]
    names = [file.relative_to(path).as_posix() for file in files]
    return json_digest(list(zip(names, contents, strict=True)))


def transformer_content(
    path: Path | str,
    config: TransformerConfig,
    store: Store,
    progress: Callable[[int, int], None] = _no_report,
) -> str:
    """The content of a transformer's file, with its sizes: a config.json beside the file may decide those.

    Of a pipeline's folder only the transformer counts. Raises FileError.
    """
    part = Path(path) / "transformer"
    content = content_of(part if is_folder(part) else path, store, progress)
    return json_digest({"content": content, "config": asdict(config)})


def _decisive(folder: Path) -> Iterator[Path]:
    """Files of a model's folder that decide what it computes: neither pictures nor words about it."""
    return (path for path in visible_files(folder) if path.suffix.lower() in SUFFIXES + CONFIGS)


def _content(path: Path, store: Store, progress: Callable[[int], None]) -> str:
    found = _state(path)
    place = {"path": os.path.realpath(path), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    key = json_digest(place)
    if (known := store.read("contents", key)) is not None:
        progress(found.st_size)
        return str(known.about["sha256"])
    content = _hashed(path, progress)
    now = _state(path)
    if (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
        raise FileError(f"“{path}” changed while it was read. Wait until it is written, and try again.")
    if abs(time.time() - found.st_mtime) > SETTLED:
        _remember(store, key, place | {"sha256": content})
    return content


def _remember(store: Store, key: str, about: Mapping[str, object]) -> None:
    try:
        store.write("contents", key, {}, about)
    except FileError as error:
        logger.warning("%s Until then, the content of this model is read again each time.", error)


def _hashed(path: Path, progress: Callable[[int], None]) -> str:
    digest, buffer, done = sha256(), bytearray(BUFFER), 0
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
                done += count
                progress(done)
    except FileError:
        raise
    except OSError as error:
        raise closed(path, error) from error
    return digest.hexdigest()


def _state(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise closed(path, error) from error
