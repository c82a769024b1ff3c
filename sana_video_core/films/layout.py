"""Where everything lies in a store's folder. Without torch, for the command line.

store.json                          says that this is a store, and of which version
<kind>/<aa>/<key>.safetensors       an entry; aa are the first two letters of its key
anywhere/<aa>/<key>/<chunk's key>   an empty file: a chunk that is this one on some machine
films/<name>.json                   which entries a film is made of
holders/                            who is using the store now
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import FileError
from ..files.atomic import atomic_path, make_folder
from ..files.places import is_file
from ..files.text_file import read_text

KINDS = ("chunks", "embeddings", "memories", "segments", "texts", "contents")
MARK, VERSION = "store.json", 1
FORMAT = "sana_video_store"
SUFFIX = ".safetensors"
DAMAGED = ".damaged"
HIDDEN = "new"  # of all that isn't finished, so that any writer removes what any dead one left
IN_OUTPUT = Path("sana_films", "store")  # where a host's output folder has it
KEY = re.compile(r"[0-9a-f]{64}")


def entry_path(folder: Path, kind: str, key: str) -> Path:
    """The file of an entry, whether it is there or not."""
    if kind not in KINDS or not KEY.fullmatch(key):
        raise ValueError(f"there are no entries “{kind}” “{key}”")
    return folder / kind / key[:2] / f"{key}{SUFFIX}"


def anywhere_folder(folder: Path, anywhere: str) -> Path:
    """The folder of the chunks that have this key with every compute tag left out."""
    if not KEY.fullmatch(anywhere):
        raise ValueError(f"“{anywhere}” is no key")
    return folder / "anywhere" / anywhere[:2] / anywhere


def make_store(folder: Path) -> None:
    """Make a store where there is none. Raises FileError, also for one of a newer version."""
    if is_file(folder / MARK):
        check_store(folder)
        return
    make_folder(folder)
    with atomic_path(folder / MARK, folder / HIDDEN) as new:
        new.write_text(json.dumps({FORMAT: VERSION}), encoding="utf-8")


def check_store(folder: Path) -> None:
    """Raises FileError unless the folder is a store that this version reads."""
    if not is_file(folder / MARK):
        raise FileError(
            f"“{folder}” isn't a store of films: it has no {MARK}. Give the folder in which films keep their "
            f"chunks, usually {IN_OUTPUT.as_posix()} in the output folder."
        )
    try:
        version = json.loads(read_text(folder / MARK))[FORMAT]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileError(
            f"“{folder / MARK}” is damaged: it doesn't say of which version the store is. Delete this one "
            "file, and the next film writes it again."
        ) from error
    if version != VERSION:
        raise FileError(
            f"“{folder}” is a store of version {version}; this version of the pack reads {VERSION}. Update "
            "the pack, or choose another folder."
        )
