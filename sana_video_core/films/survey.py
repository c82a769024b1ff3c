"""What lies in a store: sizes, times of last use, and which films list what. Without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .layout import DAMAGED, KEY, KINDS, SUFFIX, check_store
from .manifest import Manifest, read_manifests


@dataclass(frozen=True, slots=True)
class Item:
    """One entry's file."""

    kind: str
    key: str
    path: Path
    size: int  # bytes
    used: float  # when it was last used, in seconds since 1970; to the day

    @property
    def name(self) -> tuple[str, str]:
        return self.kind, self.key


@dataclass(frozen=True, slots=True)
class Survey:
    """A store as it was at one moment."""

    items: tuple[Item, ...]
    films: dict[Path, Manifest]  # by the path of their manifest
    unread: dict[Path, str]  # manifests that can't be read, and why: nobody knows what they list
    damaged: tuple[Item, ...]  # entries that were put aside

    @property
    def size(self) -> int:
        """Bytes, with those of damaged entries."""
        return size_of(self.items) + size_of(self.damaged)

    def of(self, film: Manifest) -> list[Item]:
        """What is there of a film."""
        names = film.names
        return [item for item in self.items if item.name in names]

    def listed(self) -> frozenset[tuple[str, str]]:
        """Kind and key of each entry that a film lists."""
        return frozenset().union(*(film.names for film in self.films.values()))


def size_of(items: Iterable[Item]) -> int:
    """Bytes of some entries."""
    return sum(item.size for item in items)


def survey(folder: Path) -> Survey:
    """Look at all of a store. Raises FileError if it is none."""
    check_store(folder)
    films, unread = read_manifests(folder)
    items, damaged = [], []
    for item in _files(folder):
        (damaged if item.path.name.endswith(DAMAGED) else items).append(item)
    return Survey(tuple(items), films, unread, tuple(damaged))


def _files(folder: Path) -> Iterator[Item]:
    """The entries, whole and damaged; what has another name isn't ours."""
    for kind in KINDS:
        for path in sorted((folder / kind).glob(f"??/*{SUFFIX}*")):
            key, _, ending = path.name.partition(".")
            if KEY.fullmatch(key) and f".{ending}" in (SUFFIX, SUFFIX + DAMAGED):
                yield from _item(kind, key, path)


def _item(kind: str, key: str, path: Path) -> Iterator[Item]:
    try:
        found = path.lstat()
    except FileNotFoundError:  # made again, or pruned, while we look
        return
    yield Item(kind, key, path, found.st_size, found.st_mtime)
