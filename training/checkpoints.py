"""Checkpoints of a training in small files: one set of tensors, split into parts of at most 15 MiB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from torch import Tensor

from ..sana_video_core.errors import FileError
from ..sana_video_core.files.tensor_file import read_tensors, write_tensors

LARGEST = 15 * 2**20


def save_parts(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> list[Path]:
    """Write NAME-1.safetensors, NAME-2.safetensors, … and remove older parts."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for key in sorted(tensors):
        size += tensors[key].nbytes
        if size > LARGEST and parts[-1]:
            parts.append({})
            size = tensors[key].nbytes
        parts[-1][key] = tensors[key]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}-{number}.safetensors" for number, _ in enumerate(parts, 1)]
    metadata = {"parts": str(len(parts)), "save": uuid4().hex}
    for path, part in zip(paths, parts, strict=True):
        write_tensors(path, part, metadata)
    for path in set(folder.glob(f"{name}-*.safetensors")) - set(paths):
        path.unlink()
    return paths


def load_parts(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The tensors of `save_parts`, or None. Raises FileError when the parts are not all from one save."""
    paths = sorted(folder.glob(f"{name}-*.safetensors"))
    if not paths:
        return None
    tensors: dict[str, Tensor] = {}
    saves: set[str | None] = set()
    for path in paths:
        part, metadata = read_tensors(path)
        if metadata.get("parts") != str(len(paths)):
            raise FileError(
                f"“{folder}” has {len(paths)} parts of the training “{name}”, but {path.name} belongs to a "
                f"set of {metadata.get('parts')}. Bring all parts of one set, or remove them to begin anew."
            )
        saves.add(metadata.get("save"))
        tensors.update(part)
    if len(saves) > 1:
        raise FileError(
            f"The parts of the training “{name}” in “{folder}” were not saved together. Bring all parts of "
            "one save, or remove them to begin anew."
        )
    return tensors
