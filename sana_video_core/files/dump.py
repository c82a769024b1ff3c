"""Which of the networks in a training's dump is the one that makes videos."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FileError

logger = logging.getLogger("sana_video")

# what trainings call the network that makes videos. If a dump has several, the first is taken: the original's
# scripts for inference read `state_dict` and `generator`, not their averages
# fmt: off
MEANT = (
    "state_dict", "generator", "generator_ema", "state_dict_ema", "model_state_dict", "ema_state_dict",
    "model", "model_ema", "ema_model", "ema", "module", "net", "network", "transformer", "student",
    "diffusion_model", "dit", "unet", "online_model", "params_ema", "params", "weights", "generator_lora",
)
# of the same shapes, but not the one that makes videos
OTHERS = (
    "critic", "critic_ema", "critic_lora", "discriminator", "fake_score", "real_score", "teacher",
    "guidance_model",
)
# fmt: on
USUAL = MEANT[:2]  # taken without a word where they are alone
# of SANA-Video 2.0, whose names no other network has: its scripts read averages before `state_dict`
MEANT_2, MARK_2 = ("generator", "state_dict_ema", "state_dict"), "attn_res.final_proj.weight"
PREFIXES = {*MEANT[:6], "model_ema", "ema_model", "ema", "online_model", *OTHERS}  # not model or module
DEEPEST = 4  # dictionaries in dictionaries


def weights_of(content: object, path: Path) -> dict[str, Tensor]:
    """The named tensors of an unpickled file: at the top, or those of the network that is meant."""
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping) or _looks_like_weights(content):
            break
        keys = _networks(content)
        key = _meant(keys, path, _first(name for key in keys for name in content[key]))
        if not key:
            break
        content = content[key]
    if not isinstance(content, Mapping):
        raise FileError(
            f"“{path.name}” holds a {type(content).__name__} and no named tensors, "
            "so it isn't a checkpoint. Use the published file."
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if content and not tensors:
        names = _listed([str(key)[:40] for key in content])
        raise FileError(
            f"“{path.name}” holds {names}, and no named tensors in any of these, so it isn't a checkpoint. "
            "Use the published file, or save the network's state dict."
        )
    return tensors


def weights_by_prefix(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same for a file without dictionaries, where each tensor's name begins with the network's."""
    starts = {name.partition(".")[0] for name in tensors}
    several = not starts.isdisjoint(OTHERS)  # then a usual prefix is the name of one of them
    keys = sorted(starts & (PREFIXES.union(MEANT) if several else PREFIXES))
    key = _meant(keys, path, _first(tensors))
    start = f"{key}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)} if key else tensors


def _first(names: Iterable[Any]) -> tuple[str, ...]:
    """The networks that scripts of SANA-Video 2.0 read first, if the names of tensors are of it."""
    return MEANT_2 if any(str(name).endswith(MARK_2) for name in names) else ()


def part_with(marks: tuple[str, ...], tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Of a file with more than one network, the tensors under the prefix of the one that has a `mark`.

    Raises FileError where several have one.
    """
    starts = {n.removesuffix(mark) for mark in marks for n in tensors if f".{n}".endswith(f".{mark}")}
    if len(starts) != 1 or "" in starts:
        if len(starts) > 1:
            raise FileError(
                f"“{path.name}” holds several networks of this kind, under "
                f"{_listed(sorted(start.rstrip('.') or 'no prefix' for start in starts))}. "
                "Save the one that makes videos to its own file."
            )
        return tensors
    start = starts.pop()
    part = {name: tensor for name, tensor in tensors.items() if name.startswith(start)}
    if len(part) < len(tensors):
        logger.warning(
            "“%s” holds more than one network: the tensors under “%s” were taken.",
            path.name,
            start.rstrip("."),
        )
    return {name.removeprefix(start): tensor for name, tensor in part.items()}


def _networks(content: Mapping[Any, Any]) -> list[str]:
    """The keys that hold weights, or dictionaries with weights."""
    named = [key for key in (*MEANT, *OTHERS) if isinstance(content.get(key), Mapping) and content[key]]
    others = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and key not in named and isinstance(value, Mapping)
    }
    direct = [key for key, value in others.items() if _looks_like_weights(value)]
    if named or direct:
        return named + direct
    return [key for key, value in others.items() if _holds_weights(value, {id(content)})]


def _holds_weights(content: Mapping[Any, Any], seen: set[int], deep: int = DEEPEST - 1) -> bool:
    """Whether a dictionary in this one looks like weights. `seen` are those that were looked at."""
    if id(content) in seen or not deep:
        return False
    seen.add(id(content))
    inner = [value for key, value in content.items() if isinstance(key, str) and isinstance(value, Mapping)]
    return any(_looks_like_weights(value) or _holds_weights(value, seen, deep - 1) for value in inner)


def _looks_like_weights(content: Mapping[Any, Any]) -> bool:
    return any(
        isinstance(key, str) and "." in key and isinstance(value, Tensor) and value.is_floating_point()
        for key, value in content.items()
    )


def _meant(keys: list[str], path: Path, first: tuple[str, ...] = ()) -> str:
    """The network to take, or "" if there is none. Raises FileError where that would be a guess.

    Those of `first` come before the others, and are taken without a word where they are alone.
    """
    known = [key for key in (*first, *MEANT) if key in keys]
    unknown = [key for key in keys if key not in MEANT and key not in OTHERS]
    choice = known[:1] or (unknown if len(unknown) == 1 else [])
    names = _listed(keys)
    if keys and not choice:
        raise FileError(
            f"“{path.name}” is a training's dump of {names}, and none of these is known as the network "
            "that makes videos. Save that one to its own file."
        )
    if len(keys) > 1 and choice:
        logger.warning("“%s” is a training's dump of %s: “%s” was taken.", path.name, names, choice[0])
    elif choice and choice[0] not in (*USUAL, *first):
        logger.warning("“%s” is a training's dump: its “%s” was taken.", path.name, choice[0])
    return choice[0] if choice else ""


def _listed(keys: list[str]) -> str:
    return ", ".join(f"“{key}”" for key in keys[:6]) + (", …" if len(keys) > 6 else "")
