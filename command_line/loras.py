"""`--lora FILE[:STRENGTH]`: from the command line to a loaded model. Imports no torch until it is used."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..sana_video_core.errors import FileError, SanaVideoError
from ..sana_video_core.files.places import is_file, is_folder
from ..sana_video_core.files.weight_names import SUFFIXES

if TYPE_CHECKING:
    from ..sana_video_core.transformer.network import VideoNetwork

STRONGEST = 100.0  # as the node's widget
NUMBER = re.compile(r"[+-]?(?:\d{1,6}(?:\.\d{0,12})?|\.\d{1,12})")


class LoraChoice(NamedTuple):
    path: Path
    strength: float


def add_lora_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--lora",
        dest="loras",
        type=_lora,
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a LoRA of any naming, or the folder of PEFT's, by default at 1; give it again for more, which "
        "act in this order",
    )


def find_loras(options: argparse.Namespace) -> None:
    """Refuse LoRAs that aren't there, before any work; of a folder, --lora becomes the file in it."""
    from ..sana_video_core.checkpoints.lora_file import adapter_in

    for number, (path, strength) in enumerate(options.loras):
        if is_folder(path):
            options.loras[number] = LoraChoice(adapter_in(path), strength)
        elif not is_file(path):
            raise FileError(f"There is no LoRA at “{path}”. Check its name and its folder.")


def change_by_loras(model: VideoNetwork[Any], options: argparse.Namespace) -> None:
    """Change a loaded model by --lora. Raises FileError as `apply_loras`, before a weight is changed."""
    from ..sana_video_core.checkpoints.lora_apply import apply_loras

    model.loras = options.loras = apply_loras(model, [choice for choice in options.loras if choice.strength])


def _lora(text: str) -> LoraChoice:
    path, colon, strength = text.rpartition(":")
    if not colon or _is_path(text, path, strength):
        return LoraChoice(Path(text), 1.0)
    if not NUMBER.fullmatch(strength):
        raise argparse.ArgumentTypeError(
            f"“{strength}” isn't a strength; write a number behind the colon, for example {path}:0.8"
        )
    if abs(float(strength)) > STRONGEST:
        raise argparse.ArgumentTypeError(
            f"a strength of {strength} is out of range; it goes from {-STRONGEST:g} to {STRONGEST:g}, and 1 "
            "is how the LoRA was trained"
        )
    return LoraChoice(Path(path), float(strength))


def _is_path(text: str, before: str, behind: str) -> bool:
    """Whether a colon belongs to the name of a file: of a drive of Windows, or of a file that is there."""
    named = any(mark in behind for mark in "/\\") or Path(behind).suffix.lower() in SUFFIXES
    if named or (len(before) == 1 and before.isalpha()):
        return True
    try:
        return is_file(text) or is_folder(text)
    except SanaVideoError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
