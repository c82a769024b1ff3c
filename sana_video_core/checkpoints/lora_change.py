"""One module's change in a LoRA file: its kind, its size, its strength.

Shapes: a change is a matrix [rows, columns] = [out, in * kernel]. LoRA: lora_up [out, r, ...] @ lora_down [r,
in, ...]; LoHa: the product of two such pairs, value by value; LoKr: the Kronecker product of two matrices,
whole or such pairs; a Tucker core [r, r, h, w] may lie between a pair. Sources: PEFT and LyCORIS, and how
ComfyUI 0.29 (comfy/weight_adapter) reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FileError

COMPANIONS = {"alpha", "dora_scale"}  # they change nothing by themselves


class LoraTarget(NamedTuple):
    """What a module of a LoRA changes."""

    parameter: str  # canonical, such as blocks.0.attn.qkv.weight
    rows: tuple[int, int] | None  # (first row, count) of a fused parameter, None for all of it


class Factor(NamedTuple):
    """A matrix [rows, columns] in a file: whole, or left @ right, with or without a Tucker core."""

    whole: str
    left: str = ""
    right: str = ""
    core: str = ""


KINDS = {  # first part of the suffixes -> the factors of a change
    "lora": (Factor("", "lora_up.weight", "lora_down.weight", "lora_mid.weight"),),
    "hada": (
        Factor("", "hada_w1_a", "hada_w1_b", "hada_t1"),
        Factor("", "hada_w2_a", "hada_w2_b", "hada_t2"),
    ),
    "lokr": (
        Factor("lokr_w1", "lokr_w1_a", "lokr_w1_b"),
        Factor("lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    ),
    "diff": (Factor("diff"),),
    "set": (Factor("set_weight"),),
}


@dataclass(slots=True)
class Change:
    """Everything that a file holds for one module."""

    spelled: tuple[str, ...]  # the module's name in the file, without and with its prefix
    parts: dict[str, Tensor] = field(default_factory=dict)  # suffix -> tensor
    names: dict[str, str] = field(default_factory=dict)  # suffix -> name in the file


def fitted(change: Change, target: LoraTarget, shape: list[int]) -> dict[str, Tensor]:
    """A change's parts, checked to be complete and to fit `shape`, the parameter's or its rows'."""
    parts, required = change.parts, (shape[0], prod(shape[1:]))
    kinds = sorted({suffix.partition("_")[0] for suffix in parts if suffix not in COMPANIONS})
    whole = kinds[0] in ("diff", "set")
    factors = KINDS[kinds[0]]
    twice = any(factor.whole in parts and parts.keys() & set(factor[1:]) for factor in factors)
    # the host would take one of these and drop the rest
    if len(kinds) > 1 or twice or (whole and parts.keys() & COMPANIONS):
        raise FileError(
            f"{listed(change.names.values())} are ways to change one module that exclude each other. "
            "Save each to its own file, and load them one after the other."
        )
    extents = [_extent(change, factor) for factor in factors]
    if kinds[0] == "lokr":
        _check_kronecker(change)
        extents = [(extents[0][0] * extents[1][0], extents[0][1] * extents[1][1])]
    alpha, scale = parts.get("alpha", torch.ones(())), parts.get("dora_scale", torch.ones(shape[0]))
    # a scale per row, or per column of a kernel
    scaled = scale.shape[:1].numel() == scale.numel() == required[0] or (
        list(scale.shape[:2]) == [1, *shape[1:2]] == [1, scale.numel()]
    )
    fits = {"alpha": alpha.numel() == 1, "dora_scale": scaled}
    wrong = [
        suffix for suffix in parts if not fits.get(suffix, all(extent == required for extent in extents))
    ]
    if wrong:
        shapes = (f"{change.names[suffix]} {list(parts[suffix].shape)}" for suffix in wrong)
        rows = f"rows {target.rows[0]} to {sum(target.rows) - 1} of " if target.rows else ""
        raise FileError(
            f"The LoRA does not fit this model: {listed(shapes)} cannot change {rows}{target.parameter}, "
            f"of shape {shape}. It was trained on a model of another size or kind: "
            "load it with that model, or use a LoRA for this one."
        )
    if "dora_scale" in parts and scale.ndim == 1:
        parts = parts | {"dora_scale": scale.reshape(-1, *[1] * (len(shape) - 1))}
    return {suffix: part.reshape(shape) for suffix, part in parts.items()} if whole else parts


def _check_kronecker(change: Change) -> None:
    """Refuse LoKrs that ComfyUI 0.29 skips with a log entry (with a core) or mixes up (in 3 dimensions)."""
    factors = change.parts.get("lokr_w1"), change.parts.get("lokr_w2")
    axes = [2 if factor is None else factor.ndim for factor in factors]
    if "lokr_t2" in change.parts or axes not in ([2, 2], [2, 4]):
        raise FileError(
            f"{listed(change.names.values())} are a LoKr in a form that ComfyUI cannot apply "
            "(with a Tucker core, or for layers that are neither linear nor for images). "
            "Train it without Tucker decomposition and on other layers, or as a LoRA."
        )


def _extent(change: Change, factor: Factor) -> tuple[int, int]:
    """Rows and columns of a factor; (0, 0) when its tensors do not fit each other."""
    parts = change.parts
    if factor.whole in parts:
        part = parts[factor.whole]
        return (len(part), part[0].numel()) if part.ndim and len(part) else (0, 0)
    missing = [name for name in (factor.left, factor.right) if name not in parts]
    if missing:
        raise FileError(
            f"{listed(change.names.values())} have no counterpart in the file "
            f"({' or '.join(missing)}, in whatever spelling): half a change does nothing. "
            "The file is incomplete; copy, download or export it again."
        )
    left, right, core = parts[factor.left], parts[factor.right], parts.get(factor.core)
    pair = factor.left == "lora_up.weight"  # which the host flattens; it multiplies the others as they are
    axes = {left.ndim, right.ndim}
    if min(axes) < 2 or (max(axes) > 2 and not pair) or not (left.numel() and right.numel()):
        return 0, 0
    if core is None:
        return (len(left), right[0].numel()) if left[0].numel() == len(right) else (0, 0)
    # left is [rows, r] in a LoRA, and the host takes one rank for both sides of its core
    rank, rows = left.shape[1::-1] if pair else left.shape[:2]
    fits = core.ndim == 4 and core.shape[:2] == (rank, len(right)) and (rank == len(right) or not pair)
    return (rows, right.shape[1] * core[0, 0].numel()) if fits else (0, 0)


def listed(names: Iterable[str]) -> str:
    """The first names of many, for a message."""
    few = sorted(names)
    return ", ".join(few[:3]) + (", …" if len(few) > 3 else "")
