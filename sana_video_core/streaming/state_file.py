"""A state as one safetensors file: named tensors, versioned metadata, never pickle.

Format 1. Metadata: `sana_video_state` (the version) and `state` (JSON: identity, scene, `story` for the
history without its latents, and the number of blocks in each memory). Tensors: `memory.B.` and
`memory_before.B.` followed by the names of block B's memory (BlockMemory.named_tensors), and
`story.I.latents` of chunk I.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import FAMILIES, STREAM_RULES, check_choice
from ..errors import FileError
from ..files.finite import check_finite
from ..files.tensor_file import parse_json, read_metadata, read_safetensors, write_tensors
from ..transformer.memory import Memory, MemorySize, block_memory
from .state import Chunk, Identity, StreamState

FORMAT = "sana_video_state"
VERSION = 1
# the JSON's fields and their types
IDENTITY_FIELDS: dict[str, tuple[type, ...]] = {
    "fingerprint": (str,),
    "family": (str,),
    "channels": (int,),
    "rows": (int,),
    "columns": (int,),
    "batch": (int,),
    "window": (int, type(None)),
}
CHUNK_FIELDS: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "digest": (str,),
    "scene": (int,),
    "seed": (int, type(None)),
    "primed": (bool,),
    "loras": (list,),
    "rule": (str,),  # absent in older files
}


def save_state(state: StreamState, path: Path | str) -> None:
    """Write a state. If that raises FileError, an older file of this name stays as it was."""
    described = {
        "identity": asdict(state.identity),
        "scene": state.scene,
        "blocks": {"memory": len(state.memory or ()), "memory_before": len(state.memory_before or ())},
        "story": [{name: getattr(chunk, name) for name in CHUNK_FIELDS} for chunk in state.history],
    }
    write_tensors(path, _named_tensors(state), {FORMAT: str(VERSION), "state": json.dumps(described)})


def load_state(path: Path | str) -> StreamState:
    """Read a state, on the CPU.

    Raises FileError for a damaged file, one with NaN in any tensor, a newer one or one of another kind.
    """
    path = Path(path)
    tensors, metadata = read_safetensors(path)
    _check_format(path, metadata)
    described = parse_json(metadata.get("state", ""), path, "description")
    # copies: mapped tensors would change with the file
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        state = _state_from(described, tensors)
        _check(state, tensors)
        check_finite(tensors, path)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = {KeyError: f"{error} is missing", ValueError: f"{error}"}.get(
            type(error), "its parts do not fit"
        )
        raise FileError(
            f"“{path.name}” is an incomplete or damaged state ({reason}). Save it again, or use an older one."
        ) from error
    return state


def check_state_file(path: Path) -> None:
    """Raises FileError unless this is a state that `load_state` could read. Reads no tensors."""
    _check_format(path, read_metadata(path))


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    version = metadata.get(FORMAT)
    if version is None:
        raise FileError(
            f"“{path.name}” isn't a saved state. States are written by Save State (or --state-out)."
        )
    if version != str(VERSION):
        raise FileError(
            f"“{path.name}” is a state of format {version}; "
            f"this version of the pack reads format {VERSION}. Update the pack."
        )


def _state_from(described: Any, tensors: Mapping[str, Tensor]) -> StreamState:
    identity = Identity(**_fields(described["identity"], IDENTITY_FIELDS))
    history = []
    for i, entry in enumerate(described["story"]):
        fields = _fields({"rule": STREAM_RULES[0], **entry}, CHUNK_FIELDS)
        check_choice(f"the rule of chunk {i}", fields["rule"], STREAM_RULES)
        if not all(isinstance(lora, str) for lora in fields["loras"]):
            raise ValueError(f"the LoRAs of chunk {i} are {fields['loras']}")
        fields["loras"] = tuple(fields["loras"])
        history.append(Chunk(latents=tensors[f"story.{i}.latents"], **fields))
    memories = {
        name: _memory_from(name, described["blocks"][name], identity.window, tensors)
        for name in ("memory", "memory_before")
    }
    scene = _fields(described, {"scene": (int,)})["scene"]
    return StreamState(identity=identity, scene=scene, history=tuple(history), **memories)


def _fields(record: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """A record's fields, each present and of its exact type (true isn't an int here)."""
    for name, kind in kinds.items():
        if type(record[name]) not in kind:
            raise ValueError(f"{name} is {record[name]!r}")
    return {name: record[name] for name in kinds}


def _check(state: StreamState, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError if the parts of a file don't belong together."""
    identity = state.identity
    if identity.family not in FAMILIES:
        raise FileError(
            f"This state belongs to a model of the family “{identity.family}”, "
            f"which this version of the pack does not know; it knows {', '.join(FAMILIES)}. Update the pack."
        )
    window = 1 if identity.window is None else identity.window
    if min(identity.channels, identity.rows, identity.columns, identity.batch, window) < 1:
        raise ValueError("one of its sizes is below 1")
    scenes = [chunk.scene for chunk in state.history]
    numbers = [*scenes, state.scene]
    if numbers[0] != 0 or any(later - earlier not in (0, 1) for earlier, later in pairwise(numbers)):
        raise ValueError(f"its scenes are {scenes}, then {state.scene}")
    for i, chunk in enumerate(state.history):
        shape = [identity.batch, identity.channels, max(1, chunk.length), identity.rows, identity.columns]
        if list(chunk.latents.shape) != shape or chunk.latents.dtype != torch.float32:
            kind = f"{chunk.latents.dtype} of shape {list(chunk.latents.shape)}"
            raise ValueError(f"story.{i}.latents is {kind} instead of {shape}")
    chunks = scenes.count(state.scene)
    _check_memory("memory", state.memory, identity, chunks)
    _check_memory("memory_before", state.memory_before, identity, chunks - 1)
    kinds = _kinds(state.memory)
    if len({size for kind, size in kinds}) > len({kind for kind, _ in kinds}):
        raise ValueError("its blocks are of different models")
    if state.memory_before is not None and _kinds(state.memory_before) != kinds:
        raise ValueError("its two memories are of different models")
    unused = sorted(tensors.keys() - _named_tensors(state).keys())
    if unused:
        raise ValueError(f"nothing says what {unused[0]} is")


def _check_memory(name: str, memory: Memory | None, identity: Identity, chunks: int) -> None:
    """Raises ValueError unless this is the memory of a scene of `chunks` chunks."""
    if (memory is not None) != (chunks > 0):
        raise ValueError(f"{name} and the history are of different lengths")
    if memory is None:
        return
    area = identity.grid.tokens(identity.rules.config.patch).area
    for b, block in enumerate(memory):
        try:
            block.check(block.size._replace(batch=identity.batch, area=area), chunks)
        except ValueError as error:
            raise ValueError(f"{name}.{b}.{error}") from error


def _kinds(memory: Memory | None) -> list[tuple[type, MemorySize]]:
    """What kind and size each block's memory is of."""
    return [(type(block), block.size) for block in memory or ()]


def _named_tensors(state: StreamState) -> dict[str, Tensor]:
    """Every tensor of a state under its name in the file."""
    tensors = {f"story.{i}.latents": chunk.latents for i, chunk in enumerate(state.history)}
    for name, memory in (("memory", state.memory), ("memory_before", state.memory_before)):
        for b, block in enumerate(memory or ()):
            tensors |= {f"{name}.{b}.{part}": tensor for part, tensor in block.named_tensors().items()}
    return tensors


def _memory_from(name: str, blocks: int, window: int | None, tensors: Mapping[str, Tensor]) -> Memory | None:
    if not blocks:
        return None
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, block, part = [*key.split(".", 2), "", ""][:3]
        if owner == name:
            parts.setdefault(block, {})[part] = tensor
    memory = []
    for b in range(blocks):
        try:
            memory.append(block_memory(parts.get(str(b), {}), window))
        except KeyError as error:
            raise KeyError(f"{name}.{b}.{error.args[0]}") from error
    return tuple(memory)
