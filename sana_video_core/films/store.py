"""A store of what films are made of, by the content of their keys: look up, or make.

Any number of processes may use one. The first writer of a key wins, and no name ever holds half an entry.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FileError
from ..files.atomic import make_folder, whole, written
from ..files.hidden import hidden_folder
from .entry import Entry, check_numbers, offered, read_entry, save_entry
from .holds import held
from .layout import DAMAGED, HIDDEN, anywhere_folder, entry_path, make_store
from .manifest import Manifest, write_manifest

logger = logging.getLogger("sana_video")
# Keys of these decide every bit. An encoder on several threads may write other bytes for the same frames, and
# what has no tensors holds only words.
LAWFUL = ("chunks", "embeddings", "memories")
DAY = 24 * 60 * 60.0  # seconds; the time of last use is no finer, so that reading seldom writes
TRIES = 3
LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Store:
    """The entries in a folder, which is made when something is first written."""

    folder: Path

    def held(self) -> AbstractContextManager[None]:
        """Keeps pruning away in the block. Raises FileError if the store is being pruned or is read-only."""
        return held(self.folder)

    def read(self, kind: str, key: str) -> Entry | None:
        """An entry, checked, or None. A damaged one is put aside with a warning, so that it is made again."""
        path = entry_path(self.folder, kind, key)
        if (found := _state(path)) is None:
            return None
        try:
            entry = read_entry(path, kind, key)
        except OSError as error:  # a FileError, too
            _not_read(path, error, found)
            return None
        if abs(time.time() - found.st_mtime) > DAY:
            with suppress(OSError):  # a store that is only to be read has no times of use
                os.utime(path)
        return entry

    def write(self, kind: str, key: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Entry:
        """Keep an entry, on the disk when this returns. Gives what the store holds: the first writer's.

        Raises FileError, and leaves nothing, if it can't be written or has values that are no numbers.
        """
        path = entry_path(self.folder, kind, key)
        new = offered(tensors, about)
        try:
            check_numbers(path, new.tensors)
        except FileError as error:
            raise FileError(f"“{path}” is not written: {error}. Try another dtype or seed.") from error
        for _ in range(TRIES):
            if (stored := self.read(kind, key)) is not None:
                return _first(path, kind, stored, new)
            if self._placed(path, kind, key, new):
                return new
        raise FileError(
            f"“{path}” could not be written: something that can't be read has its name. Remove it, or choose "
            "another folder."
        )

    def _placed(self, path: Path, kind: str, key: str, new: Entry) -> bool:
        """Whether a whole file has the name now, and not because somebody else was first."""
        make_store(self.folder)
        make_folder(path.parent)
        with written(path), hidden_folder(self.folder / HIDDEN) as hidden:
            with whole(hidden / "new") as temporary:
                save_entry(temporary, kind, key, new)
            placed = _name_once(temporary, path)
        _flush_folder(path.parent)
        return placed

    def keep_film(self, film: Manifest) -> None:
        """Keep a film's manifest, in place of its older one. Raises FileError."""
        write_manifest(self.folder, film)

    def add_anywhere(self, anywhere: str, key: str) -> None:
        """Note that this chunk is the one with this key on some machine. Raises FileError."""
        folder = anywhere_folder(self.folder, anywhere)
        make_store(self.folder)
        make_folder(folder)
        with written(folder / key):
            (folder / key).touch()

    def anywhere(self, anywhere: str) -> tuple[str, ...]:
        """Keys of the chunks, sorted, that are this one on some machine; not all need be there still."""
        try:
            return tuple(sorted(path.name for path in anywhere_folder(self.folder, anywhere).iterdir()))
        except OSError:  # nobody has made it
            return ()


def _first(path: Path, kind: str, stored: Entry, new: Entry) -> Entry:
    """What is in the store already, with a word where that breaks the law."""
    if kind in LAWFUL and stored.content != new.content:
        logger.warning(
            "A law is broken: what was made now differs from what the store holds under the same key (“%s”). "
            "The first is kept and used. Please report it, with how both were made.",
            path,
        )
    return stored


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _not_read(path: Path, error: OSError, found: os.stat_result) -> None:
    """What becomes of an entry that was there and can't be used."""
    refusal = error.__cause__ if isinstance(error, FileError) else error
    if isinstance(refusal, OSError) and not isinstance(refusal, FileError):
        reason = refusal.strerror or refusal
        logger.warning("“%s” can't be read (%s), so what it holds is made again.", path, reason)
        return
    now = _state(path)
    if now is not None and _identity(now) == _identity(found):  # nobody has made it again meanwhile
        _put_aside(path, error)


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _put_aside(path: Path, error: OSError) -> None:
    """Rename a damaged entry; of several under one key the first is kept, to look at."""
    aside, reason = path.with_name(f"{path.name}{DAMAGED}"), _short(error.__cause__ or error)
    try:
        if os.path.lexists(aside):
            path.unlink()
        else:
            path.rename(aside)
    except OSError as refusal:
        logger.warning("“%s” is damaged (%s) and can't be renamed (%s).", path, reason, refusal.strerror)
        return
    logger.warning("“%s” is damaged (%s). It was put aside (%s), and is made again.", path, reason, DAMAGED)


def _short(error: BaseException) -> str:
    """A reason on one line; parts of it may come from the damaged file."""
    words = str(error)[:LONGEST_REASON]
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _name_once(temporary: Path, path: Path) -> bool:
    """Give a file its name unless the name is taken. Whether it has it now."""
    try:
        if os.name == "nt":
            temporary.rename(path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without links: of two that come at the same moment, the last wins
        if os.path.lexists(path):
            return False
        temporary.replace(path)
    return True


def _flush_folder(folder: Path) -> None:
    """Sync a new name to the disk: a power cut would take it for seconds after the file is there."""
    if os.name == "nt":
        return
    with suppress(OSError):  # some network disks don't do this for folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
