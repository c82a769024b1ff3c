"""A state as one safetensors file: named tensors, versioned metadata, never pickle.

Layout, version 1. Metadata: `sana_video_state` (the version), `state` (JSON: identity, scene, the story without its
latents, how many blocks each memory has). Tensors: `memory.B.vk`, `memory.B.ksum`, `memory.B.tail` of block B (with a
window `memory.B.sums.I.vk` and `…ksum`), the same under `memory_before.`, and `story.I.latents`.
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

from ..config import FAMILIES
from ..errors import FileError
from ..files.tensor_file import parse_json, read_safetensors, write_tensors
from ..transformer.memory import BlockState, Memory, WindowBlockState
from ..transformer.ops import KeyValueSum
from .state import Chunk, Identity, StreamState

FORMAT = "sana_video_state"
VERSION = 1
# what the description holds, by record
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
}


def save_state(state: StreamState, path: Path | str) -> None:
    """Write a state. Raises FileError when that fails; an older file of this name then stays as it was."""
    described = {
        "identity": asdict(state.identity),
        "scene": state.scene,
        "blocks": {"memory": len(state.memory or ()), "memory_before": len(state.memory_before or ())},
        "story": [{name: getattr(chunk, name) for name in CHUNK_FIELDS} for chunk in state.story],
    }
    write_tensors(path, _named_tensors(state), {FORMAT: str(VERSION), "state": json.dumps(described)})


def load_state(path: Path | str) -> StreamState:
    """Read a state, on the CPU. Raises FileError for a file that is none, is damaged, or is newer than this pack."""
    path = Path(path)
    tensors, metadata = read_safetensors(path)
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
    # a state is a value: what somebody copies over the file later must not change it
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        state = _state_from(described, tensors)
        _check(state, tensors)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = {KeyError: f"{error} is missing", ValueError: f"{error}"}.get(
            type(error), "its parts do not fit"
        )
        raise FileError(
            f"“{path.name}” is an incomplete or damaged state ({reason}). Save it again, or use an older one."
        ) from error
    return state


def _state_from(described: Any, tensors: Mapping[str, Tensor]) -> StreamState:
    identity = Identity(**_fields(described["identity"], IDENTITY_FIELDS))
    story = []
    for i, given in enumerate(described["story"]):
        fields = _fields(given, CHUNK_FIELDS)
        if not all(isinstance(lora, str) for lora in fields["loras"]):
            raise ValueError(f"the LoRAs of chunk {i} are {fields['loras']}")
        fields["loras"] = tuple(fields["loras"])
        story.append(Chunk(latents=tensors[f"story.{i}.latents"], **fields))
    memories = {
        name: _memory_from(name, described["blocks"][name], identity.window, tensors)
        for name in ("memory", "memory_before")
    }
    scene = _fields(described, {"scene": (int,)})["scene"]
    return StreamState(identity=identity, scene=scene, story=tuple(story), **memories)


def _fields(given: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Fields of a record, each there and of its kind (true is no number here)."""
    for name, kind in kinds.items():
        if type(given[name]) not in kind:
            raise ValueError(f"{name} is {given[name]!r}")
    return {name: given[name] for name in kinds}


def _check(state: StreamState, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError when the parts of a file do not belong together."""
    own = state.identity
    if own.family not in FAMILIES:
        raise FileError(
            f"This state belongs to a model of the family “{own.family}”, which this version of the pack does not "
            f"know; it knows {', '.join(FAMILIES)}. Update the pack."
        )
    if min(own.channels, own.rows, own.columns, own.batch, 1 if own.window is None else own.window) < 1:
        raise ValueError("one of its sizes is below 1")
    scenes = [chunk.scene for chunk in state.story]
    told = [*scenes, state.scene]
    if told[0] != 0 or any(later - earlier not in (0, 1) for earlier, later in pairwise(told)):
        raise ValueError(f"its scenes are {scenes}, then {state.scene}")
    for i, chunk in enumerate(state.story):
        shape = [own.batch, own.channels, max(1, chunk.length), own.rows, own.columns]
        _check_tensor(f"story.{i}.latents", chunk.latents, shape)
    chunks = scenes.count(state.scene)
    _check_memory("memory", state.memory, own, chunks)
    _check_memory("memory_before", state.memory_before, own, chunks - 1)
    if len(state.memory_before or state.memory or ()) != len(state.memory or ()):
        raise ValueError("its two memories are of different models")
    unused = sorted(tensors.keys() - _named_tensors(state).keys())
    if unused:
        raise ValueError(f"nothing tells what {unused[0]} is")


def _check_memory(name: str, memory: Memory | None, own: Identity, chunks: int) -> None:
    """Raises ValueError when this is not the memory of a scene of `chunks` chunks."""
    if (memory is not None) != (chunks > 0):
        raise ValueError(f"{name} and the story tell of different lengths")
    if memory is None:
        return
    tokens = own.grid.tokens(own.rules.compression.patch).area
    first = _sums(memory[0])[0].vk
    heads, head = first.shape[1], first.shape[3]
    for b, block in enumerate(memory):
        if len(_sums(block)) != min(own.window or 1, chunks):
            raise ValueError(f"{name}.{b} holds {len(_sums(block))} sums")
        for own_sum in _sums(block):
            _check_tensor(f"{name}.{b}.vk", own_sum.vk, [own.batch, heads, head, head])
            _check_tensor(f"{name}.{b}.ksum", own_sum.ksum, [own.batch, heads, head])
        if not block.tail.is_floating_point():
            raise ValueError(f"{name}.{b}.tail is of type {block.tail.dtype}")
        _check_tensor(f"{name}.{b}.tail", block.tail.float(), [own.batch, heads * head, 1, tokens])


def _check_tensor(name: str, tensor: Tensor, shape: list[int]) -> None:
    if list(tensor.shape) != shape or tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype} of shape {list(tensor.shape)} instead of {shape}")


def _sums(block: BlockState | WindowBlockState) -> tuple[KeyValueSum, ...]:
    return (block.past,) if isinstance(block, BlockState) else block.sums


def _named_tensors(state: StreamState) -> dict[str, Tensor]:
    """Every tensor of a state under its name in the file."""
    tensors = _memory_tensors("memory", state.memory) | _memory_tensors("memory_before", state.memory_before)
    return tensors | {f"story.{i}.latents": chunk.latents for i, chunk in enumerate(state.story)}


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
