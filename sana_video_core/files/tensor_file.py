"""Reads and writes files of tensors, never running code from one: safetensors, pickles, folders of parts."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FileError
from .atomic import atomic_path

PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
ZIP = b"PK\x03\x04"  # how files of torch.save begin since torch 1.6
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
REASON_LENGTH = 200
# torch's errors about an object that needs code to be run, and its name
FOREIGN_OBJECT = re.compile(r"Unsupported class (\S+)|GLOBAL ([\w.]+)")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors, .pth, .pt, .ckpt or .bin file, on the CPU.

    Raises FileError if the file is missing, truncated, of another kind, or holds more than tensors.
    """
    with _readable(path):
        kind = path.suffix.lower()
        if kind == ".safetensors":
            return read_safetensors(path)
        if kind in PICKLE_SUFFIXES:
            return _unwrapped(_read_pickle(path), path), {}
    raise FileError(
        f"“{path.name}” is not a kind of file that holds weights: "
        f"use .safetensors, or one of {', '.join(PICKLE_SUFFIXES)}."
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, whatever its suffix.

    The tensors are mapped from the file: copy those that have to outlive it.
    """
    with _readable(path), safe_open(path, framework="pt", device="cpu") as file:
        names = file.keys()  # the file isn't a dictionary
        return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors."""
    with _readable(path), safe_open(path, framework="pt", device="cpu") as file:
        return dict(file.metadata() or {})


def read_parts(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder that diffusers saved: one file, or an index of several."""
    index = read_json(folder / INDEX)
    names: list[str] = [WEIGHTS]
    if index is not None:
        parts = index.get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts.values()):
            raise FileError(f"“{folder / INDEX}” does not say which part holds which tensor. Copy it again.")
        names = sorted(set(parts.values()))
    elif not (folder / WEIGHTS).is_file():
        raise FileError(
            f"The folder “{folder}” holds no {WEIGHTS} (nor an index of parts). "
            "Choose the folder that diffusers calls transformer or vae, or one file."
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_tensors(folder / name)[0]
    return tensors


def read_json(path: Path) -> dict[str, Any] | None:
    """A file's JSON object, or None when there is no such file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _closed(path, error) from error
    except UnicodeDecodeError as error:
        raise _damaged(path, error) from error
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
    owned: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        # the format allows no sharing, but two memories with a window share sums
        shared = tensor.data_ptr() in written
        written.add(tensor.data_ptr())
        owned[name] = tensor.clone() if shared else tensor
    with atomic_path(path) as temporary:
        save_file(owned, temporary, dict(metadata))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what the system or safetensors raise in the block into a FileError."""
    try:
        if not path.is_file():
            raise FileError(f"There is no file “{path}”. Check the name and the folder.")
        path.open("rb").close()  # raises the reason: safetensors calls every unreadable file missing
        yield
    except FileError:
        raise
    except OSError as error:
        raise _closed(path, error) from error
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        mapped = file.read(len(ZIP)) == ZIP  # torch maps only its newer format
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # damaged pickles raise errors of many types
        match = FOREIGN_OBJECT.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if match is None:
            raise _damaged(path, error) from error
        raise FileError(
            f"“{path.name}” holds Python objects ({match[1] or match[2]}) and not only tensors, so it was "
            "not opened: such a file can run code. Use the published checkpoint, or a .safetensors file."
        ) from error


def _unwrapped(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a training dump: under `state_dict` or `generator`, or at the top."""
    for key in ("state_dict", "generator"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise FileError(
            f"“{path.name}” holds a {type(content).__name__} and no named tensors, "
            "so it isn't a checkpoint. Use the published file."
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise FileError(
                f"“{path.name}”: {name} is stored in a special way (sparse, quantized or without values), "
                "which is not supported. Use the published checkpoint."
            )
    return tensors


def _closed(path: Path, error: OSError) -> FileError:
    return FileError(
        f"“{path}” cannot be opened ({error.strerror or error}). "
        "Check its name, its folder, and whether you may read it."
    )


def _damaged(path: Path, error: Exception) -> FileError:
    # other errors are about Python, or advise loading the file unsafely
    words = str(error).strip() if isinstance(error, RuntimeError | SafetensorError) else ""
    reason = words.splitlines()[0].split(". ")[0][:REASON_LENGTH] if words else "its content makes no sense"
    return FileError(
        f"“{path.name}” cannot be read ({reason}): it is damaged, incomplete or of another kind. "
        "Copy or download it again."
    )
