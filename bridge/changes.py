"""What was done to a MODEL, as far as it can be named by its content."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import comfy.patcher_extension
import torch

from ..sana_video_core.transformer.maker import AppliedLora

LORAS = "sana_video_loras"  # attachment of a patcher: its NamedChanges
# ComfyUI's step caches need its own sampling loop; a distilled stream of four steps has nothing to skip
STEP_CACHES = ("easycache", "lazycache")
NODES = {"torch.compile": "TorchCompileModel"}  # key of a wrapper -> the node that adds it
ON_LOAD = "on_load_after"  # CallbacksMP.ON_LOAD
# a stream has timesteps of its own, and no previews from here
INERT_OBJECTS = ("model_sampling", "latent_format")


class NamedChanges(NamedTuple):
    """Our LoRAs on a patcher, and what it looked like after the last one."""

    loras: tuple[AppliedLora, ...] = ()
    patches: tuple[Any, ...] = ()  # all patches of its weights
    tables: Mapping[str, Any] = {}  # the objects that we exchanged, by name
    whole: bool = True  # whether no other node had changed its weights

    @classmethod
    def of(cls, patcher: Any) -> NamedChanges:
        """As remembered, if no other node changed the weights since then."""
        named, patches = patcher.get_attachment(LORAS) or cls(), _patches(patcher)
        as_left = len(patches) == len(named.patches) and all(map(operator.is_, patches, named.patches))
        return named._replace(whole=named.whole and as_left)

    def after(self, patcher: Any, lora: AppliedLora, tables: Iterable[str]) -> NamedChanges:
        """With one more LoRA, which was just added to `patcher`."""
        exchanged = {name: patcher.object_patches[name] for name in tables}
        return self._replace(
            loras=(*self.loras, lora), patches=_patches(patcher), tables={**self.tables, **exchanged}
        )

    def remember(self, patcher: Any) -> None:
        patcher.set_attachments(LORAS, self)


def _patches(patcher: Any) -> tuple[Any, ...]:
    """Of every weight, one after the other. Clones share these objects, not the lists of them."""
    return tuple(chain.from_iterable(patcher.patches.values()))


def unnamed_changes(patcher: Any) -> str | None:
    """Whatever else changes what a stream computes with this MODEL, for an artist; None for nothing."""
    return ", ".join(dict.fromkeys(_unnamed(patcher))) or None


def _unnamed(patcher: Any) -> Iterator[str]:
    named = NamedChanges.of(patcher)
    if not named.whole or _any(patcher, "weight_wrapper_patches", "hook_patches"):
        yield "weights that another node changed (a LoRA of another loader, a merge)"
    if _any(patcher, "injections"):
        yield "a LoRA in bypass mode"
    for name, value in patcher.object_patches.items():
        ours = name in named.tables and named.tables[name] is value
        if not ours and name not in INERT_OBJECTS:
            yield "a dtype of another node" if name == "manual_cast_dtype" else f"a patch of {name}"
    for key in _wrapper_keys(patcher):
        yield NODES.get(key, f"a wrapper of another node{f' ({key})' if key else ''}")
    if any(getattr(patcher, "callbacks", {}).get(ON_LOAD, {}).values()):
        yield "a node that changes the model when it is loaded"
    if any(_is_hooked(layer) for layer in patcher.model.diffusion_model.modules()):
        yield "a node that changes what its layers do"


def _any(patcher: Any, *names: str) -> bool:
    return any(getattr(patcher, name, None) for name in names)


def _is_hooked(layer: torch.nn.Module) -> bool:
    # who takes a patch back leaves the class's own method on the layer
    exchanged = (
        "forward" in vars(layer) and getattr(layer.forward, "__func__", None) is not type(layer).forward
    )
    return bool(layer._forward_hooks or layer._forward_pre_hooks or exchanged)


def _wrapper_keys(patcher: Any) -> Iterator[str]:
    """Keys of the wrappers that run around a stream's calls."""
    kinds, options = comfy.patcher_extension.WrappersMP, stream_options(patcher)
    for kind in (kinds.APPLY_MODEL, kinds.DIFFUSION_MODEL):
        for key, listed in options["wrappers"].get(kind, {}).items():
            if listed:
                yield key


def stream_options(patcher: Any) -> dict[str, Any]:
    """The options and wrappers that nodes set on a MODEL, without those of step caches."""
    options = {k: v for k, v in patcher.model_options["transformer_options"].items() if k not in STEP_CACHES}
    wrappers = comfy.patcher_extension.merge_nested_dicts(options.get("wrappers", {}), patcher.wrappers)
    options["wrappers"] = {
        kind: {key: listed for key, listed in by_key.items() if key not in STEP_CACHES}
        for kind, by_key in wrappers.items()
    }
    return options
