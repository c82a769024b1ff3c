"""Manifests: which entries of a store a film is made of. Without torch, for the command line.

A film is known by its file's path. Its manifest is written when it begins and again as it grows, so pruning
takes nothing of a film that isn't finished, either.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import FileError
from ..files.atomic import atomic_path, make_folder
from ..files.places import is_file
from ..files.text_file import read_text
from .layout import HIDDEN, KEY, KINDS, make_store

FORMAT, VERSION = "sana_video_film", 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One film, and the keys of its entries by kind."""

    path: str  # of the film's file, absolute
    script: str
    keys: Mapping[str, tuple[str, ...]]
    finished: bool = True
    made: float = field(default_factory=time.time)  # seconds since 1970

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """Kind and key of each entry."""
        return frozenset((kind, key) for kind, keys in self.keys.items() for key in keys)

    @property
    def is_there(self) -> bool:
        """Whether the film's file is where it was written."""
        try:
            return is_file(self.path)
        except FileError:  # a disk that is away, or another user's folder: nobody says that it is gone
            return True


def manifest_path(folder: Path, film: str) -> Path:
    """The manifest of the film with this path, in a store."""
    stem = "".join(letter if letter.isalnum() else "_" for letter in Path(film).stem)[:40]
    return folder / "films" / f"{stem}-{sha256(film.encode(errors='surrogatepass')).hexdigest()[:12]}.json"


def write_manifest(folder: Path, film: Manifest) -> None:
    """Keep a film's manifest, in place of its older one. Raises FileError."""
    make_store(folder)
    path = manifest_path(folder, film.path)
    make_folder(path.parent)
    content = {
        FORMAT: VERSION,
        "path": film.path,
        "script": film.script,
        "keys": {kind: list(keys) for kind, keys in film.keys.items()},
        "finished": film.finished,
        "made": film.made,
    }
    with atomic_path(path, folder / HIDDEN) as new:
        new.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_manifests(folder: Path) -> tuple[dict[Path, Manifest], dict[Path, str]]:
    """A store's films by the path of their manifest; and why other manifests can't be read."""
    films, unread = {}, {}
    for path in sorted((folder / "films").glob("[!.]*.json")):
        try:
            films[path] = _film_from(json.loads(read_text(path)))
        except (FileError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            unread[path] = str(error)
    return films, unread


def _film_from(content: dict[str, Any]) -> Manifest:
    if content[FORMAT] != VERSION:
        raise ValueError(f"it is of format {content[FORMAT]}, and this version of the pack reads {VERSION}")
    keys = {kind: tuple(keys_of_kind) for kind, keys_of_kind in content["keys"].items()}
    listed = [key for keys_of_kind in keys.values() for key in keys_of_kind]
    if not keys.keys() <= set(KINDS) or not all(map(KEY.fullmatch, listed)):
        raise ValueError("it lists what no store holds")
    return Manifest(
        path=str(content["path"]),
        script=str(content["script"]),
        keys=keys,
        finished=bool(content["finished"]),
        made=float(content["made"]),
    )
