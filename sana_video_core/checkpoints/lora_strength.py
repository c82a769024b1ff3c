"""How strong a LoRA is: alpha over rank, from wherever its trainer wrote that down."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import FileError

# of which tensor the host takes the rank that it divides alpha by, and by which axis; as ComfyUI 0.29
RANKS = {"lora_down.weight": 0, "hada_w1_b": 0, "lokr_w2_b": 0, "lokr_w1_b": 0}
MOST_PATTERNS = 10_000
LONGEST_PATTERN = 300
REPEATED_GROUP = re.compile(r"\)[*+?{]")  # which could take for ever, as could many repetitions
MOST_REPETITIONS = 3


class Alphas(NamedTuple):
    """The alphas of a file that are no tensors."""

    default: float | None
    patterns: list[tuple[re.Pattern[str], float]]  # of module names; the first match counts
    rank_stabilized: bool  # the change is scaled by alpha / sqrt(rank), not alpha / rank
    rank: float | None  # as configured; a change without factors shows none

    @classmethod
    def read(cls, metadata: Mapping[str, str], config: Mapping[str, Any] = {}) -> Alphas:
        """From a file's metadata, as diffusers or PEFT write it, else from PEFT's adapter_config.json.

        Raises FileError for entries that make no sense: the strength would be a guess.
        """
        try:
            described = json.loads(metadata.get("lora_adapter_metadata", "null")) or metadata
            return cls._of(described) or cls._of(config) or cls(None, [], False, None)
        except (ValueError, TypeError, AttributeError, RecursionError, re.error) as error:
            raise FileError(
                "What the LoRA's metadata or its adapter_config.json says of its strength (lora_alpha) "
                "cannot be read: the file is damaged. Copy or export it again."
            ) from error

    @classmethod
    def _of(cls, entries: Mapping[str, Any]) -> Alphas | None:
        """What one source says; None if it says nothing of alphas."""

        def entry(key: str) -> Any:
            value = entries.get(f"transformer.{key}", entries.get(key))
            return json.loads(value) if isinstance(value, str) else value

        alpha = entry("lora_alpha")
        if entries.get("peft_type") in ("LOHA", "LOKR"):
            alpha = entry("alpha")
        patterns = entry("alpha_pattern") or {}
        if alpha is None and not patterns:
            return None
        if len(patterns) > MOST_PATTERNS or any(map(_is_slow, patterns)):
            raise ValueError("too many patterns, or one that is too complex")
        compiled = [(re.compile(rf"(?:.*\.)?(?:{key})"), _number(value)) for key, value in patterns.items()]
        rank = entry("r")
        return cls(
            None if alpha is None else _number(alpha),
            compiled,
            bool(entry("use_rslora")),
            None if rank is None else _number(rank),
        )

    def applied(self, parts: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
        """A change's parts with its alpha, unless it is there. `names` are the module's in the file."""
        ranked = next((name for name in RANKS if name in parts), None)
        alpha = next((v for key, v in self.patterns if any(map(key.fullmatch, names))), self.default)
        if alpha is None or "alpha" in parts:
            return dict(parts)
        if ranked is not None:
            rank = parts[ranked].shape[RANKS[ranked]]
            return {**parts, "alpha": torch.tensor(alpha * sqrt(rank) if self.rank_stabilized else alpha)}
        if "lokr_w1" in parts and self.rank:  # two whole matrices: the host scales them by nothing
            return {**parts, "lokr_w1": parts["lokr_w1"] * (alpha / self.rank)}
        return dict(parts)


def _is_slow(pattern: str) -> bool:
    repetitions = sum(map(pattern.count, "*+{"))
    return (
        len(pattern) > LONGEST_PATTERN
        or repetitions > MOST_REPETITIONS
        or bool(REPEATED_GROUP.search(pattern))
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isfinite(float(value)):
        raise ValueError(f"{value!r} is no number")
    return float(value)
