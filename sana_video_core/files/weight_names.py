"""Names of files of weights: suffixes, parts, variants, indices. Without torch, for the lists of nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import FileError
from .places import is_file

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pkl")
SUFFIXES = SAFETENSORS_SUFFIXES + PICKLE_SUFFIXES
PART = re.compile(r"-(\d+)-of-(\d+)(?=\.)")
# as diffusers and transformers name them, with an optional variant (bf16, fp16, ema, …) in either place
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
WEIGHTS = re.compile(
    rf"(?:{'|'.join(STEMS)})(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<old>\w+))?\.(?P<kind>safetensors|bin)"
)
INDEX = re.compile(
    rf"(?:{'|'.join(STEMS)})(?:\.(?P<old>\w+))?\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json"
)
VARIANTS = ("", "bf16", "fp32", "fp16")  # which is taken if there are several; then by name


def refuse_part(path: Path) -> None:
    """Raises FileError for one of several files that only together are a model."""
    match = PART.search(path.name)
    if match and int(match[2][:9]) > 1:
        raise FileError(
            f"“{path.name}” is one of {int(match[2][:9])} parts of a model. "
            f"Choose its folder, “{path.absolute().parent.name}”, which has to hold all of them."
        )


def preferred(names: Iterable[str]) -> tuple[str, str, bool]:
    """Of the names in a folder: the index or file to read, its variant, and whether there are more variants.

    Safetensors come before pickles, an index before single files. The name is "" where there are no weights.
    """
    found = [
        (match["kind"] == "bin", _rank(variant), pattern is WEIGHTS, name, variant)
        for name in sorted(names)
        for pattern in (INDEX, WEIGHTS)
        if (match := pattern.fullmatch(name))
        for variant in [match["variant"] or match["old"] or ""]
    ]
    if not found:
        return "", "", False
    _, _, _, name, variant = min(found)
    return name, variant, len({entry[4] for entry in found}) > 1


def _rank(variant: str) -> tuple[int, str]:
    return (VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS), variant)


def parts_of(folder: Path, name: str) -> list[Path]:
    """Every part of the model of which `name` is one. Raises FileError if one is missing."""
    match = PART.search(name)
    if match is None:
        return [folder / name]
    width, count = len(match[1]), int(match[2][:9])
    if not 1 <= count <= 10_000:
        raise FileError(f"“{name}” says that it is one of {count} parts. Download the folder again.")
    names = [
        f"{name[: match.start()]}-{i:0{width}}-of-{match[2]}{name[match.end() :]}"
        for i in range(1, count + 1)
    ]
    missing = [part for part in names if not is_file(folder / part)]
    if missing:
        raise FileError(
            f"The folder “{folder}” is not whole: {missing[0]} is missing ({len(missing)} of {count} parts). "
            "Download it again."
        )
    return [folder / part for part in names]
