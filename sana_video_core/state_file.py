"""A state as one safetensors file: named tensors, versioned metadata, never pickle.

Layout, version 1. Metadata: `sana_video_state` (the version), `state` (JSON: identity, scene, the story without its
latents, how many blocks each memory has). Tensors: `memory.B.vk`, `memory.B.ksum`, `memory.B.tail` of block B (with a
window `memory.B.sums.I.vk` and `…ksum`), the same under `memory_before.`, and `story.I.latents`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import FileError, SanaVideoError
from .memory import BlockState, Memory, WindowBlockState
from .ops import KeyValueSum
from .state import Chunk, Identity, StreamState
from .tensor_file import parse_json, read_tensors, write_tensors

FORMAT = "sana_video_state"
VERSION = 1


def save_state(state: StreamState, path: Path | str) -> None:
    """Write a state. Raises FileError when that fails; an older file of this name then stays as it was."""
    tensors = _memory_tensors("memory", state.memory) | _memory_tensors("memory_before", state.memory_before)
    tensors |= {f"story.{i}.latents": chunk.latents for i, chunk in enumerate(state.story)}
    story = [{k: v for k, v in _fields(chunk).items() if k != "latents"} for chunk in state.story]
    described = {
        "identity": asdict(state.identity),
        "scene": state.scene,
        "blocks": {"memory": len(state.memory or ()), "memory_before": len(state.memory_before or ())},
        "story": story,
    }
    write_tensors(path, tensors, {FORMAT: str(VERSION), "state": json.dumps(described)})


def load_state(path: Path | str) -> StreamState:
    """Read a state, on the CPU. Raises FileError for a file that is none, is damaged, or is newer than this pack."""
    path = Path(path)
    tensors, metadata = read_tensors(path)
    version = metadata.get(FORMAT)
    if version is None:
        raise FileError(
            f"“{path.name}” is no saved state. States are written by Save State (or --state-out)."
        )
    if version != str(VERSION):
        raise FileError(
            f"“{path.name}” is a state of format {version}; this version of the pack reads format {VERSION}. Update "
            "the pack."
        )
    described = parse_json(metadata.get("state", ""), path, "description")
    try:
        return _state_from(described, tensors)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, SanaVideoError):
            raise
        raise FileError(
            f"“{path.name}” is an incomplete or damaged state ({error!r}). Save it again, or use an older one."
        ) from error


def _fields(chunk: Chunk) -> dict[str, Any]:
    return {name: getattr(chunk, name) for name in Chunk.__slots__}


def _state_from(described: Any, tensors: Mapping[str, Tensor]) -> StreamState:
    identity = Identity(**described["identity"])
    story = []
    for i, fields in enumerate(described["story"]):
        fields = {**fields, "loras": tuple(fields["loras"])}
        story.append(Chunk(latents=tensors[f"story.{i}.latents"], **fields))
    memories = {
        name: _memory_from(name, described["blocks"][name], identity.window, tensors)
        for name in ("memory", "memory_before")
    }
    state = StreamState(identity=identity, scene=described["scene"], story=tuple(story), **memories)
    _check(state)
    return state


def _check(state: StreamState) -> None:
    """Raises ValueError when the parts of a file do not belong together."""
    own = state.identity
    for chunk in state.story:
        shape = (own.batch, own.channels, chunk.length, own.rows, own.columns)
        if tuple(chunk.latents.shape) != shape:
            raise ValueError(f"latents {tuple(chunk.latents.shape)} in a stream of {shape}")
    if bool(state.position) != (state.memory is not None):
        raise ValueError("the memory and the story tell of different lengths")
    tokens = own.grid.tokens(own.rules.compression.patch).area
    for block in (*(state.memory or ()), *(state.memory_before or ())):
        if block.tail.shape[0] != own.batch or block.tail.shape[3] != tokens:
            raise ValueError(f"a tail of shape {tuple(block.tail.shape)} for {tokens} tokens")


def _memory_tensors(name: str, memory: Memory | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for b, block in enumerate(memory or ()):
        tensors[f"{name}.{b}.tail"] = block.tail
        if isinstance(block, BlockState):
            tensors |= {f"{name}.{b}.vk": block.vk, f"{name}.{b}.ksum": block.ksum}
        else:
            for i, own in enumerate(block.sums):
                tensors |= {f"{name}.{b}.sums.{i}.vk": own.vk, f"{name}.{b}.sums.{i}.ksum": own.ksum}
    return tensors


def _memory_from(name: str, blocks: int, window: int | None, tensors: Mapping[str, Tensor]) -> Memory | None:
    if not blocks:
        return None
    if window is None:
        return tuple(
            BlockState(*(tensors[f"{name}.{b}.{part}"] for part in BlockState._fields)) for b in range(blocks)
        )
    return tuple(
        WindowBlockState(_sums_from(f"{name}.{b}.sums", tensors), tensors[f"{name}.{b}.tail"], window)
        for b in range(blocks)
    )


def _sums_from(name: str, tensors: Mapping[str, Tensor]) -> tuple[KeyValueSum, ...]:
    count = sum(1 for key in tensors if key.startswith(f"{name}.") and key.endswith(".vk"))
    return tuple(KeyValueSum(tensors[f"{name}.{i}.vk"], tensors[f"{name}.{i}.ksum"]) for i in range(count))
