"""The family that a checkpoint says it is of, read without its weights."""

from __future__ import annotations

from pathlib import Path

from ..config import DEMO, FAMILIES, family_named
from ..errors import InputError
from ..files.places import is_folder
from ..files.tensor_file import parse_json, read_json, read_metadata
from .checkpoint import OUR_CLASSES
from .description import CAUSAL_CLASS, FORMAT

METADATA = (".safetensors", ".sft")  # kinds of files that have it


def check_family(path: Path, family: str) -> None:
    """Raises InputError if a file says that it is of another family than the chosen one.

    The demo's weights may also be tried as a bidirectional model.
    """
    chosen, said = family_named(family), said_family(path)
    tried = said == DEMO.name and not chosen.causal
    if said is not None and said != chosen.name and not tried:
        raise InputError(
            f"“{path.name}” says that it is of the family {said}, and {family} was chosen. "
            "Choose auto, or the file that belongs to this family."
        )


def said_family(path: Path) -> str | None:
    """From its metadata, or the config.json in its folder. None for files that don't say it."""
    config, ours = path.parent, None
    if is_folder(path):
        config = path / "transformer" if is_folder(path / "transformer") else path
    elif path.suffix.lower() in METADATA:
        metadata = read_metadata(path)
        ours = parse_json(metadata.get("config", "{}"), path, "config") if FORMAT in metadata else None
    beside = read_json(config / "config.json") or {}
    kind = str(beside.get("_class_name", OUR_CLASSES))
    if OUR_CLASSES not in kind:  # of another model in the same folder
        beside = {}
    said = (ours.get("family") if isinstance(ours, dict) else None) or beside.get("family")
    if said is None and kind == CAUSAL_CLASS:
        said = "longsana_480p"
    return said if said in FAMILIES else None  # another kind of value is refused where it is loaded
