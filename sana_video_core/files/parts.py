"""Reads folders that diffusers saved: one file or an index of several, any variant, either format."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath

from torch import Tensor

from ..errors import FileError
from .places import is_folder
from .refusals import closed
from .tensor_file import read_json, read_one_file
from .weight_names import SUFFIXES, parts_of, preferred

logger = logging.getLogger("sana_video")


def read_parts(
    folder: Path,
    wanted: str = "diffusion_pytorch_model.safetensors (nor an index of parts)",
    advice: str = "Choose the folder that diffusers calls transformer or vae, or one file.",
) -> dict[str, Tensor]:
    """The tensors of a folder, mapped.

    Raises FileError if parts are missing, or if there are none: then it says what was wanted, and `advice`.
    """
    if not is_folder(folder):
        raise FileError(f"There is no file or folder “{folder}”. Check the name.")
    names = names_in(folder)
    chosen, variant, others = preferred(names)
    if not chosen:
        own = [name for name in names if name.lower().endswith(SUFFIXES)]
        hint = f", but {', '.join(own[:3])}" if own else ""
        raise FileError(f"The folder “{folder}” holds no {wanted}{hint}. {advice}")
    if others:
        logger.warning(
            "“%s” holds several variants: %s was read.", folder.name, variant or "the one without a name"
        )
    expected = index_of(folder / chosen) if chosen.endswith(".json") else None
    tensors: dict[str, Tensor] = {}
    for path in (
        parts_of(folder, chosen) if expected is None else sorted({folder / p for p in expected.values()})
    ):
        tensors |= read_one_file(path)[0]
    missing = sorted((expected or {}).keys() - tensors.keys())
    if missing:
        raise FileError(
            f"The folder “{folder}” is not whole: its index names {missing[0]}, which no part holds "
            f"({len(missing)} in all). Download it again."
        )
    return tensors


def index_of(path: Path) -> dict[str, str]:
    """Tensor -> part, from an index. Raises FileError if it says nothing, or names a file elsewhere."""
    parts = (read_json(path) or {}).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts.values()):
        raise FileError(f"“{path}” does not say which part holds which tensor. Copy it again.")
    for name in set(parts.values()):
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name or not inside.name:
            raise FileError(
                f"“{path.name}” names a part outside of its folder (“{name[:100]}”), which is not read. "
                "Download the folder again."
            )
    return parts


def names_in(folder: Path) -> list[str]:
    """Names of what is in a folder, sorted."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise closed(folder, error) from error
