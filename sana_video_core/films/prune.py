"""Makes a store smaller: what was used longest ago, and nothing of a film unless asked. Without torch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError
from ..files.hidden import remove_dead
from .holds import alone
from .layout import HIDDEN
from .manifest import Manifest
from .survey import Item, Survey, size_of, survey

WORDS = ("texts", "contents")  # a few bytes each: they don't make a store large, but save much work


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go."""

    free: tuple[Item, ...]  # no film lists these
    listed: tuple[Item, ...]  # films list these
    films: tuple[Manifest, ...]  # those that would lose entries
    unread: tuple[Path, ...]  # manifests that can't be read: what no other film lists may be theirs


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went."""

    taken: tuple[Item, ...]
    kept: tuple[Item, ...]  # what would have gone, had no film listed it
    damaged: tuple[Item, ...]
    manifests: tuple[Manifest, ...]  # of films that are gone, with the last of their chunks
    size: int  # bytes of the store now


def planned(seen: Survey, age: float | None, size: int | None, now: float | None = None) -> Plan:
    """What would go to have nothing unused for more than `age` seconds and no more than `size` bytes."""
    now = time.time() if now is None else now
    listed = seen.listed()
    alive = frozenset().union(*(film.names for film in seen.films.values() if film.is_there))
    rest, going = size_of(seen.items), []
    for item in sorted(seen.items, key=lambda item: (item.name in listed, item.name in alive, item.used)):
        too_old = age is not None and now - item.used > age
        too_much = size is not None and rest > size and item.kind not in WORDS
        if too_old or too_much:
            going.append(item)
            rest -= item.size
    asked = [item for item in going if seen.unread or item.name in listed]
    names = {item.name for item in asked}
    films = tuple(film for film in seen.films.values() if not names.isdisjoint(film.names))
    free = () if seen.unread else tuple(item for item in going if item.name not in names)
    return Plan(free, tuple(asked), films, tuple(seen.unread))


def prune(
    folder: Path, *, age: float | None = None, size: int | None = None, ask: Callable[[Plan], bool]
) -> Pruned:
    """Prune a store. `ask` is called, while nobody is kept waiting, if entries of films would go.

    Raises FileError, before anything is taken, if the folder is no store or a film is being made.
    """
    with alone(folder):
        plan = planned(survey(folder), age, size)
    agreed = bool(plan.listed) and ask(plan)
    with alone(folder):
        seen = survey(folder)
        now = set(seen.items)
        listed = seen.listed()
        # what somebody used, or a film lists, since we asked stays
        free = [item for item in plan.free if item in now and item.name not in listed]
        taken = [*free, *(item for item in plan.listed if agreed and item in now)]
        for item in (*taken, *seen.damaged):
            _remove(item.path)
        _forget_places(folder, taken)
        remove_dead(folder / HIDDEN)
        manifests = _forget_films(folder, agreed)
        left = survey(folder).size
    return Pruned(tuple(taken), () if agreed else plan.listed, seen.damaged, manifests, left)


def _forget_films(folder: Path, agreed: bool) -> tuple[Manifest, ...]:
    """Remove manifests of films without a file and without a chunk; where it was agreed, unreadable ones."""
    seen = survey(folder)
    gone = {
        path: film
        for path, film in seen.films.items()
        if not film.is_there and not any(item.kind == "chunks" for item in seen.of(film))
    }
    for path in (*gone, *(seen.unread if agreed else ())):
        _remove(path)
    return tuple(gone.values())


def _forget_places(folder: Path, taken: list[Item]) -> None:
    """Remove what leads from keys of any machine to chunks that are gone."""
    keys = {item.key for item in taken if item.kind == "chunks"}
    for path in list((folder / "anywhere").glob("??/*/*")) if keys else ():
        if path.name in keys:
            _remove(path)
            with suppress(OSError):  # others lie there
                path.parent.rmdir()


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():  # put aside as a damaged entry
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"“{path}” can't be removed ({error.strerror}). What was taken before is gone; check who may "
            "write there, and try again."
        ) from error
