"""Reads and writes files of tensors, never running code from one: safetensors and pickles.

What a file only claims to hold is never made: sizes are looked at before anything is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError
from .atomic import atomic_path
from .dump import weights_of
from .pickle_file import ZIP, read_pickle
from .places import is_file
from .quantised import GGUF, quantised_sentence
from .refusals import closed, damaged
from .weight_names import SAFETENSORS_SUFFIXES, SUFFIXES, refuse_part

LARGEST_HEADER = 16 << 20  # bytes; 500 tensors are 60 kilobytes, a state's prompts a few hundred more
MOST_WEIGHTS = 10_000  # a published model has 496
MOST_TENSORS = 65_536  # a state with a long window has thousands
LARGEST_JSON = 16 << 20
LONGEST_NAME = 300


def read_tensors(path: Path, *, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file with one of `SUFFIXES`, on the CPU. Its content says what it is.

    Of a file with tensors whose names begin with the prefix, only these are read. Raises FileError if the
    file is missing, truncated, of another kind, one part of several, or holds more than tensors.
    """
    refuse_part(path)
    return read_one_file(path, prefix=prefix)


def read_one_file(path: Path, *, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """As `read_tensors`, but the file may be one part of several."""
    with _readable(path):
        with path.open("rb") as file:
            start = file.read(9)
        if start.startswith(GGUF):
            raise FileError(quantised_sentence(path.name, "GGUF", "its mark"))
        kind = path.suffix.lower()
        if kind not in SUFFIXES:
            raise FileError(
                f"“{path.name}” is not a kind of file that holds weights: use {SUFFIXES[0]}, "
                f"or one of {', '.join(SUFFIXES[1:])}."
            )
        # a header of 19,280 bytes makes a safetensors file begin with PK, too
        pickled = start[:2] == ZIP[:2] or start[:1] == b"\x80" or kind not in SAFETENSORS_SUFFIXES
        if pickled and start[8:] != b"{":
            tensors = _plain(weights_of(read_pickle(path), path), path)
            return {name: tensors[name] for name in _under(prefix, tensors)}, {}
        # what has a prefix may lie beside other networks
        return read_safetensors(path, most=MOST_TENSORS if prefix else MOST_WEIGHTS, prefix=prefix)


def read_safetensors(
    path: Path, *, most: int = MOST_TENSORS, prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file of at most so many tensors, whatever its suffix.

    The tensors are mapped from the file: copy those that have to outlive it. `prefix` is as in
    `read_tensors`.
    """
    with _opened(path, most) as file:
        names = file.keys()  # the file isn't a dictionary
        _check_names(names, path)
        return {name: file.get_tensor(name) for name in _under(prefix, names)}, dict(file.metadata() or {})


def _under(prefix: str, names: Iterable[str]) -> list[str]:
    """The names that begin with the prefix, if there are any, else all."""
    names = list(names)
    return [name for name in names if name.startswith(prefix)] or names


def read_saved(path: Path) -> object:
    """What torch.save wrote: tensors and plain values. Raises FileError as `read_tensors` does."""
    with _readable(path):
        return read_pickle(path)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_json(path: Path) -> dict[str, Any] | None:
    """A file's JSON object, or None when there is no such file."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_JSON + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise closed(path, error) from error
    if len(content) > LARGEST_JSON:
        raise _too_much(path, "more than 16 MB of JSON")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise damaged(path, error) from error
    content = parse_json(text, path, "content")
    if not isinstance(content, dict):
        raise FileError(f"“{path}” holds no JSON object, so it isn't a config. Copy it again.")
    return content


def parse_json(text: str, path: Path, what: str) -> object:
    """JSON from a file or its metadata, or a FileError that names the file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"The {what} of “{path.name}” cannot be read ({error}): "
            "the file is damaged. Copy or make it again."
        ) from error


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one safetensors file, complete or not at all."""
    with atomic_path(path) as temporary:
        save_tensors(temporary, tensors, metadata)


def save_tensors(temporary: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Save tensors under a name that nobody else reads: the file is there before it is whole."""
    owned: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        # the format allows no sharing, but two memories with a window share sums
        shared = tensor.data_ptr() in written
        written.add(tensor.data_ptr())
        owned[name] = tensor.clone() if shared else tensor
    save_file(owned, temporary, dict(metadata))


@contextmanager
def _opened(path: Path, most: int = MOST_TENSORS) -> Iterator[Any]:
    """A safetensors file, after a look at its header: a very large one would take long to take apart."""
    with _readable(path):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if LARGEST_HEADER < length < path.stat().st_size:
                raise _too_much(path, f"a header of {length / 2**20:,.0f} MB")
            count = file.read(min(length, LARGEST_HEADER)).count(b'"data_offsets"')
        if count > most:
            raise _too_much(path, f"{count:,} tensors")
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what the system or safetensors raise in the block into a FileError."""
    try:
        if not is_file(path):
            raise FileError(f"There is no file “{path}”. Check the name and the folder.")
        path.open("rb").close()  # raises the reason: safetensors calls every unreadable file missing
        yield
    except FileError:
        raise
    except OSError as error:
        raise closed(path, error) from error
    except SafetensorError as error:
        raise damaged(path, error) from error


def _check_names(names: Iterable[str], path: Path) -> None:
    """Names end in messages, and some have been made to write over a terminal."""
    if any(len(name) > LONGEST_NAME or not name.isprintable() for name in names):
        raise FileError(
            f"“{path.name}” has tensors with names that can't be printed: it is damaged, or made to deceive. "
            "Copy or download it again."
        )


def _plain(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors whose values are all in the file, each once."""
    if len(tensors) > MOST_WEIGHTS:
        raise _too_much(path, f"{len(tensors):,} tensors")
    _check_names(tensors, path)
    for name, tensor in tensors.items():
        special = tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized
        if special or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise FileError(
                f"“{path.name}”: {name} is stored in a special way (sparse, quantised, repeated or without "
                "values), which is not supported. Use the published checkpoint."
            )
    return tensors


def _too_much(path: Path, what: str) -> FileError:
    return FileError(
        f"“{path.name}” has {what}, more than any model, LoRA or state that this pack reads. "
        "It was not opened. Use the published file."
    )
