"""One entry of a store as a safetensors file that shows whether it is whole and is the one asked for.

Its metadata: `sana_video_store` (the format's version), `kind`, `key`, `about` (JSON: what it is), `content`
(`tensors_digest` of its tensors) and `seal` (sha256 over all of these).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FileError
from ..files.finite import check_finite
from ..files.tensor_file import parse_json, read_safetensors, save_tensors
from .keys import json_digest, tensors_digest
from .layout import FORMAT, VERSION

SEALED = (FORMAT, "kind", "key", "about", "content")


@dataclass(frozen=True, eq=False)
class Entry:
    """What a store holds under a key: tensors on the CPU, which nobody may write to, and what they are."""

    tensors: Mapping[str, Tensor] = field(repr=False)
    about: Mapping[str, Any]
    content: str  # `tensors_digest` of the tensors


def offered(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Entry:
    """An entry that isn't in a file yet."""
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    return Entry(tensors, json.loads(json.dumps(about)), tensors_digest(tensors))  # as it will be read


def save_entry(temporary: Path, kind: str, key: str, entry: Entry) -> None:
    """Write an entry under a name that nobody reads yet."""
    values = (str(VERSION), kind, key, json.dumps(entry.about), entry.content)
    metadata = dict(zip(SEALED, values, strict=True))
    save_tensors(temporary, entry.tensors, metadata | {"seal": json_digest(metadata)})


def check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises FileError, with half a sentence, if a value is NaN or infinite."""
    try:
        check_finite(tensors, path)
    except FileError:
        raise FileError("it has values that are no numbers: NaN or infinity") from None


def read_entry(path: Path, kind: str, key: str) -> Entry:
    """An entry, all of it checked. Raises FileError with the reason if it isn't whole, or another."""
    tensors, metadata = read_safetensors(path)
    sealed = {name: metadata.get(name, "") for name in SEALED}
    if sealed[FORMAT] not in ("", str(VERSION)):
        raise FileError(f"it is of format {sealed[FORMAT]!r}, and this version of the pack reads {VERSION}")
    if metadata.get("seal") != json_digest(sealed):
        raise FileError("it isn't as it was written")
    if (sealed["kind"], sealed["key"]) != (kind, key):
        raise FileError("it is another entry")
    # copies: mapped tensors would change with the file, and keep Windows from removing it
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if tensors_digest(tensors) != sealed["content"]:
        raise FileError("its bytes aren't those that were written")
    check_numbers(path, tensors)
    about = parse_json(sealed["about"], path, "description")
    if not isinstance(about, dict):
        raise FileError("it doesn't say what it is")
    return Entry(tensors, about, sealed["content"])
