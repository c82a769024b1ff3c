"""Applies LoRAs to weights.

A weight is changed by one LoRA after the other, in float32, and rounded once to its dtype (to nearest). The
order of operations is that of ComfyUI 0.33 (comfy/lora.py, comfy/weight_adapter), so that on a CPU the
weights are its own, bit for bit. On a GPU it computes in float16 or in the weight's dtype.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..transformer.maker import AppliedLora
from .lora import CanonicalLora
from .lora_file import lora_name, read_lora

TUCKER = "abkl, bc, ad -> dckl"  # a core [r, r, h, w] between [r, columns] and [r, rows]


class WeightChange(NamedTuple):
    """What one LoRA does to one weight, or to rows of it."""

    parts: Mapping[str, Tensor]  # suffix -> tensor, as in a CanonicalLora
    strength: float
    rows: tuple[int, int] | None = None  # (first row, count)


def apply_loras(model: nn.Module, choices: Sequence[tuple[Path, float]]) -> tuple[AppliedLora, ...]:
    """Change a model's weights by LoRAs (file, strength), in this order. Each changed weight is a new tensor.

    Raises FileError as `read_lora` does, before any weight is changed.
    """
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    loras = [read_lora(path, shapes) for path, _ in choices]
    changes: dict[str, list[WeightChange]] = {}
    for lora, (_, strength) in zip(loras, choices, strict=True):
        for module, parts in parts_of_modules(lora.tensors).items():
            target = lora.targets[module]
            changes.setdefault(target.parameter, []).append(WeightChange(parts, strength, target.rows))
    for name, listed in changes.items():
        module, _, leaf = name.rpartition(".")
        owner = model.get_submodule(module)
        changed = changed_weight(getattr(owner, leaf), listed)
        setattr(owner, leaf, nn.Parameter(changed, requires_grad=False))
    return tuple(
        applied_lora(lora, path, strength) for lora, (path, strength) in zip(loras, choices, strict=True)
    )


def applied_lora(lora: CanonicalLora, path: Path, strength: float) -> AppliedLora:
    return AppliedLora(lora_name(path), lora_content(lora), strength)


def lora_content(lora: CanonicalLora) -> str:
    """Hex sha256 of a LoRA's changes. A file's bytes aren't enough: PEFT keeps the alpha beside it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(lora.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parts_of_modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """A LoRA's canonical tensors by module: suffix -> tensor."""
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight").rpartition(".")[0]
        modules.setdefault(module, {})[name[len(module) + 1 :]] = tensor
    return modules


def changed_weight(weight: Tensor, changes: Iterable[WeightChange]) -> Tensor:
    """A new tensor: `weight`, changed by one after the other, in its dtype."""
    out = weight.detach().to(torch.float32, copy=True)
    for change in changes:
        _change(out.narrow(0, *change.rows) if change.rows else out, change)
    return out.to(weight.dtype)


def _change(weight: Tensor, change: WeightChange) -> None:
    """Changes `weight` itself: float32, made by the caller."""
    parts, strength = {name: part.to(weight.device) for name, part in change.parts.items()}, change.strength
    if "set_weight" in parts:
        weight.copy_(parts["set_weight"])
    elif "diff" in parts:
        weight += strength * parts["diff"].float()
    else:
        alpha = parts["alpha"].item() if "alpha" in parts else None
        floats = {name: part.float() for name, part in parts.items()}
        difference, rank = _difference(floats, weight.shape)
        scale = 1.0 if alpha is None or rank is None else alpha / rank
        if "dora_scale" in parts:
            _change_direction(weight, difference.mul_(scale), floats["dora_scale"], strength)
        else:
            weight += (strength * scale) * difference


def _difference(parts: Mapping[str, Tensor], shape: Sequence[int]) -> tuple[Tensor, int | None]:
    """The change of a weight of this `shape`, and the rank that its alpha is divided by, if it has one."""
    if "lora_up.weight" in parts:
        up, down = parts["lora_up.weight"], parts["lora_down.weight"]
        inner = _with_core(down, parts["lora_mid.weight"]) if "lora_mid.weight" in parts else down
        return torch.mm(up.flatten(1), inner.flatten(1)).reshape(shape), len(down)
    if "hada_w1_a" in parts:
        factors = (_factor(parts, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
        return torch.mul(*factors).reshape(shape), len(parts["hada_w1_b"])
    left, right = (_factor(parts, f"lokr_w{n}") for n in (1, 2))
    if right.ndim == 4:  # of a convolution
        left = left[:, :, None, None]
    pair = next((name for name in ("lokr_w2_b", "lokr_w1_b") if name in parts), None)
    return torch.kron(left, right).reshape(shape), len(parts[pair]) if pair else None


def _with_core(down: Tensor, core: Tensor) -> Tensor:
    """A LoRA's right factor [r, in, 1, 1] with its Tucker core [r, r, h, w]: [r, in, h, w]."""
    product = torch.mm(down.transpose(0, 1).flatten(1), core.transpose(0, 1).flatten(1))
    return product.reshape(down.shape[1], down.shape[0], *core.shape[2:]).transpose(0, 1)


def _factor(parts: Mapping[str, Tensor], name: str, core: str = "") -> Tensor:
    """A factor of LoHa or LoKr: whole, a pair, or a pair with a Tucker core."""
    if name in parts:
        return parts[name]
    left, right = parts[f"{name}_a"], parts[f"{name}_b"]
    return torch.einsum(TUCKER, parts[core], right, left) if core in parts else torch.mm(left, right)


def _change_direction(weight: Tensor, difference: Tensor, scale: Tensor, strength: float) -> None:
    """DoRA: the sum of both gets the length `scale`, by row or by column of the kernel (arXiv 2402.09353)."""
    changed = weight + difference
    if len(scale) == len(weight):  # as ComfyUI: rows are measured before the change, columns after it
        length = weight.reshape(len(weight), -1).norm(dim=1, keepdim=True)
        length = length.reshape(-1, *[1] * (weight.ndim - 1))
    else:
        columns = changed.transpose(0, 1)
        length = columns.reshape(len(columns), -1).norm(dim=1, keepdim=True)
        length = length.reshape(-1, *[1] * (weight.ndim - 1)).transpose(0, 1)
    changed *= scale / (length + torch.finfo(weight.dtype).eps)
    if strength != 1:
        changed -= weight
        changed *= strength
        weight += changed
    else:
        weight.copy_(changed)
