"""Reads a LoRA with all that says how strong it is, and tells what of it falls away.

PEFT keeps a LoRA's alpha in adapter_config.json beside the file, diffusers in the file's metadata, most other
trainers in tensors. Sources: PEFT 0.18 (tuners/lora/config.py, utils/save_and_load.py), diffusers 0.42.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FileError
from ..files.finite import check_finite
from ..files.parts import names_in
from ..files.places import is_file, is_folder
from ..files.tensor_file import read_json, read_tensors
from ..files.weight_names import SUFFIXES
from .lora import CanonicalLora, canonical_lora
from .lora_change import listed

logger = logging.getLogger("sana_video")

CONFIG = "adapter_config.json"
ADAPTER = "adapter_model"  # PEFT's name for the weights
OF_PEFT = "base_model.model."  # how the names begin that it writes
METHODS = ("LORA", "LOHA", "LOKR")
CHANGES_THE_MODEL = (
    "pissa",
    "olora",
    "corda",
    "loftq",
    "lora_ga",
)  # ways to start that take from its weights
BLOCK = re.compile(r"blocks[._](\d{1,6})[._]")
# the first that matches a name that was left out
LEFT_OUT = (
    (
        re.compile(r"^(?:base_model\.model\.)?(?:lora_te\d?_|te\d?[._]|text_|conditioner|cond_stage)"),
        "for a text encoder",
    ),
    (re.compile(r"(?:\.bias|\.diff_b|\.b_norm)$"), "for biases"),
    (re.compile(r"lora_(?:A|B|up|down)|alpha$|diff$|dora_scale$|hada_|lokr_"), "for other parts"),
    (re.compile(r"\.weight$|scale_shift_table$"), "for weights that were trained whole (modules_to_save)"),
)


def read_lora(path: Path, shapes: Mapping[str, Sequence[int]]) -> CanonicalLora:
    """The LoRA in a file, or in a folder that PEFT saved, for a model whose parameters have these `shapes`.

    Warns of what falls away. Raises FileError as `canonical_lora`, and for NaN and methods that are no LoRA.
    """
    if is_folder(path):
        path = adapter_in(path)
    tensors, metadata = read_tensors(path)
    check_finite(tensors, path)
    config = _config_beside(path)
    _check_method(path, tensors, config or {})
    lora = canonical_lora(tensors, shapes, metadata=metadata, config=config or {})
    if config is None and any(name.startswith(OF_PEFT) for name in tensors) and not _has_alpha(lora):
        logger.warning(
            "“%s” doesn't say how strong it is: its alpha was taken to be its rank. PEFT keeps it in “%s”; "
            "put that file beside it, or set the strength by eye.", path.name, CONFIG,
        )  # fmt: skip
    if lora.unused:
        words = _left_out(lora.unused, shapes)
        logger.warning(
            "“%s”: %d of %d tensors were left out, because this model has no place for them: %s.",
            path.name, len(lora.unused), len(tensors), words,
        )  # fmt: skip
    return lora


def lora_name(path: Path) -> str:
    """What to call a LoRA: PEFT's files all have one name, so theirs is the folder's."""
    return path.parent.name if path.stem == ADAPTER and path.parent.name else path.stem


def _has_alpha(lora: CanonicalLora) -> bool:
    """Whether alphas were found, or have no say."""
    return any(name.endswith((".alpha", ".diff", ".set_weight", ".lokr_w1")) for name in lora.tensors)


def adapter_in(folder: Path) -> Path:
    """The LoRA in a folder that PEFT saved. Raises FileError."""
    for suffix in SUFFIXES:
        if is_file(folder / f"{ADAPTER}{suffix}"):
            return folder / f"{ADAPTER}{suffix}"
    raise FileError(f"The folder “{folder}” holds no {ADAPTER}.safetensors. Choose a LoRA's file.")


def _config_beside(path: Path) -> Mapping[str, Any] | None:
    """PEFT's adapter_config.json, if it is this file's: among several LoRAs nobody knows whose it is."""
    config = read_json(path.with_name(CONFIG))
    if config is None:
        return None
    # of its own kind: an optimizer.bin beside it is no LoRA
    others = [name for name in names_in(path.parent) if name.endswith(path.suffix) and name != path.name]
    if others and path.stem != ADAPTER:
        logger.warning(
            "“%s” lies beside “%s” and %d other files, so it was not read. If it is this LoRA's, put both "
            "into a folder of their own: it says how strong the LoRA is.", CONFIG, path.name, len(others),
        )  # fmt: skip
        return {}
    return config


def _check_method(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Refuse what only looks like a LoRA: it would change the model in another way than in its training."""
    method = config.get("peft_type", METHODS[0])
    if any(".lora_E" in name for name in tensors):
        method = "ADALORA"
    if method not in METHODS:
        raise FileError(
            f"“{path.name}” is a change of the kind {str(method)[:40]}, which can't be applied here. "
            "Known are LoRA, LoHa and LoKr, with DoRA scales."
        )
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(CHANGES_THE_MODEL):
        raise FileError(
            f"“{path.name}” was started with {start[:40]}, which takes its first values out of the model's "
            "weights, so it doesn't fit the unchanged model. Save it as a plain LoRA "
            "(in PEFT: save_pretrained with path_initial_model_for_weight_conversion)."
        )


def _left_out(unused: Sequence[str], shapes: Mapping[str, Sequence[int]]) -> str:
    """What fell away, by kind, each with examples."""
    depth = 1 + max((int(m[1]) for name in shapes if (m := BLOCK.search(name))), default=-1)
    kinds: dict[str, list[str]] = {}
    for name in unused:
        kinds.setdefault(_kind(name, depth), []).append(name)
    return "; ".join(f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items())


def _kind(name: str, depth: int) -> str:
    block = BLOCK.search(name)
    if block and int(block[1]) >= depth:
        return f"for blocks beyond its {depth}"
    return next((kind for pattern, kind in LEFT_OUT if pattern.search(name)), "for other parts")
