"""LoRA files of every spelling, under this model's module names and the suffixes of ComfyUI's `load_lora`.

Supported are LoRA, LoHa, LoKr (with alpha and DoRA scales) and plain differences. A change of q, k or v alone
goes to its rows of the fused parameter. Nothing is lost silently: what fits no parameter is listed, and what
has the wrong size is refused. Sources: the names that PEFT, diffusers 0.42, kohya's sd-scripts and LyCORIS
write, and those that ComfyUI 0.29 reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import FileError
from ..files.training_names import FLAT_WRAPPER, unwrapped_name
from .keys import PREFIXES, canonical_module, fused_parts
from .lora_change import COMPANIONS, Change, LoraTarget, fitted, listed
from .lora_strength import Alphas

DOTTED_PREFIX = re.compile(rf"^(?:{'|'.join(map(re.escape, (*PREFIXES, 'base_model.')))})+")
# of names with underscores for dots
FLAT_PREFIX = re.compile(r"^(?:lora_unet|lora_transformer|lycoris)_+")

# <module>.lora_A.weight, .lora_A.<adapter>.weight, .lora_A, .lora_down.weight, .lora.down.weight,
# _lora.down.weight, …
LORA = re.compile(
    r"^(.+?)[._]lora(?:_linear_layer)?[._](A|B|down|up|mid|magnitude_vector)((?:\.(?!bias$)[^.]+){0,2})$"
)
OTHER = re.compile(
    r"^(.+)\.(alpha|dora_scale|diff|diff_b|w_norm|b_norm|set_weight"
    r"|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))$"
)
SUFFIXES = {  # to one spelling; the others stay
    "A": "lora_down.weight",
    "down": "lora_down.weight",
    "B": "lora_up.weight",
    "up": "lora_up.weight",
    "mid": "lora_mid.weight",
    "magnitude_vector": "dora_scale",
    "w_norm": "diff",
}
ON_BIAS = ("diff_b", "b_norm")  # changes of the module's bias, returned as its `diff`


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CanonicalLora:
    """A LoRA that fits a model."""

    tensors: dict[str, Tensor]  # <module>.<suffix>
    targets: dict[str, LoraTarget]  # module -> where its change goes, no two to the same place
    unused: tuple[str, ...]  # names in the file that fit no parameter of this model


def canonical_lora(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    *,
    metadata: Mapping[str, str] = {},
    config: Mapping[str, Any] = {},
) -> CanonicalLora:
    """A LoRA file's tensors under canonical names. `shapes` are those of the model's parameters.

    Alphas that are no tensors in the file come from `metadata`, as diffusers or PEFT write it, else from
    `config`, PEFT's adapter_config.json; without any, alpha is the rank. Raises FileError for a file without
    a LoRA, a LoRA of another model or size, half a pair, and two changes of one kind for one module.
    """
    places = _places(shapes)
    changes, unused = _sorted_out(tensors, places)
    if not changes:
        raise FileError(_nothing_fits(tensors, shapes))
    alphas = Alphas.read(metadata, config)
    out: dict[str, Tensor] = {}
    for module, change in changes.items():
        target = places[module]
        shape = list(shapes[target.parameter])
        parts = fitted(change, target, [target.rows[1], *shape[1:]] if target.rows else shape)
        parts = alphas.applied(parts, *change.spelled)
        out |= {f"{module}.{suffix}": part for suffix, part in parts.items()}
    return CanonicalLora(
        tensors=out, targets={module: places[module] for module in changes}, unused=tuple(unused)
    )


def _places(shapes: Mapping[str, Sequence[int]]) -> dict[str, LoraTarget]:
    """Where the changes of modules, of other parameters, and of the parts of fused ones go."""
    places = {}
    for parameter, shape in shapes.items():
        if not len(shape):  # a host's scalars, such as the scale of a quantized weight
            continue
        places[parameter.removesuffix(".weight")] = LoraTarget(parameter, None)
        parts = fused_parts(parameter)
        for number, part in enumerate(parts):
            count = shape[0] // len(parts)
            places[part.removesuffix(".weight")] = LoraTarget(parameter, (number * count, count))
    return places


def _sorted_out(
    tensors: Mapping[str, Tensor], places: Mapping[str, LoraTarget]
) -> tuple[dict[str, Change], list[str]]:
    """Changes by module of this model, and the names that belong to none."""
    flat = {name.replace(".", "_"): name for name in places}
    changes: dict[str, Change] = {}
    unused = []
    for name, tensor in tensors.items():
        spelled, suffix = _parsed(unwrapped_name(name))
        module, bare = _module(spelled, places, flat)
        if suffix in ON_BIAS:
            module, suffix = f"{module}.bias", "diff"
        if not suffix or module not in places:
            unused.append(name)
            continue
        change = changes.setdefault(module, Change((bare, spelled.removeprefix("base_model.model."))))
        if suffix in change.parts:
            raise FileError(
                f"“{change.names[suffix]}” and “{name}” are for the same place ({module}). A file may hold "
                "one LoRA: save each adapter to its own file, and load them one after the other."
            )
        change.parts[suffix] = tensor.reshape(-1) if ".lora_magnitude_vector" in name else tensor
        change.names[suffix] = name
    for module in [module for module, change in changes.items() if change.parts.keys() <= COMPANIONS]:
        unused += changes.pop(module).names.values()
    return changes, unused


def _parsed(name: str) -> tuple[str, str]:
    """Module and canonical suffix; no suffix for what isn't part of a LoRA."""
    match = LORA.match(name) or OTHER.match(name)
    return (match[1], SUFFIXES.get(match[2], match[2])) if match else (name, "")


def _module(spelled: str, places: Mapping[str, LoraTarget], flat: Mapping[str, str]) -> tuple[str, str]:
    """The module of this model, or "", and its name in the file without the prefix."""
    dotted = DOTTED_PREFIX.sub("", spelled)
    bare = FLAT_PREFIX.sub("", dotted)
    if bare == dotted:
        name = canonical_module(bare)
        return (name if name in places else ""), bare
    # original names first: in `cross_attn_q_linear` the table would see a `cross_attn.q`
    bare = FLAT_WRAPPER.sub("", bare)
    return flat.get(bare) or flat.get(canonical_module(bare, flat=True).replace(".", "_"), ""), bare


def _nothing_fits(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> str:
    if any(_parsed(name)[1] not in {"", *COMPANIONS} for name in tensors):
        return (
            f"This LoRA is for another model: none of its {len(tensors)} tensors belongs to a SANA-Video "
            f"transformer; they are {listed(tensors)}. Use a LoRA that was trained on SANA-Video."
        )
    if any(canonical_module(DOTTED_PREFIX.sub("", unwrapped_name(name))) in shapes for name in tensors):
        return "This file holds a whole SANA-Video model, not a LoRA. Load it with “Load SANA-Video Model”."
    return (
        f"This file holds no LoRA: its {len(tensors)} tensors ({listed(tensors)}) "
        "change no weights in a known way (LoRA, LoHa, LoKr or differences). Choose a LoRA file."
    )
