"""Memories in a store: those that can't be made again by the model that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..files.places import is_file
from ..streaming.rebuild import Memories, MemoryCache, memory_names
from ..streaming.state import Chunk, StreamState
from ..transformer.maker import Maker
from ..transformer.memory import Memory, block_memory
from .layout import entry_path
from .naming import Namer
from .store import Store

KIND = "memories"


@dataclass(frozen=True, slots=True)
class StoreShelf:
    """The newest memories in RAM, and those in the store. What is put here by a rebuild stays in RAM."""

    cache: MemoryCache
    store: Store

    def get(self, name: str) -> Memories | None:
        if (known := self.cache.get(name)) is not None:
            return known
        entry = self.store.read(KIND, name)
        found = None if entry is None else _memories(entry.tensors, entry.about)
        if found is not None:
            self.cache.put(name, found)
        return found

    def put(self, name: str, memories: Memories) -> None:
        self.cache.put(name, memories)


def is_needed(store: Store, state: StreamState, namer: Namer) -> bool:
    """Whether a state's memory has to be kept to go on later, with this model only, from the state's chunks.

    It has to where another model made one of them: a rebuild needs the model that absorbed. Once is enough.
    """
    scene = state.chunks
    foreign = [number for number, chunk in enumerate(scene) if not _is_by(namer.maker, chunk)]
    if scene and _file_of(store, scene[-1]) not in (None, namer.content):
        foreign.append(len(scene) - 1)
    names = memory_names(state)[foreign[-1] :] if foreign else []
    return bool(names) and not any(is_file(entry_path(store.folder, KIND, name)) for name in names)


def keep_memory(store: Store, state: StreamState) -> None:
    """Keep a state's memory in the store. Raises FileError."""
    assert state.memory is not None, "it is needed"
    parts = zip(Memories._fields, (state.memory, state.memory_before), strict=True)
    tensors = {
        f"{part}.{b}.{name}": tensor
        for part, memory in parts
        for b, block in enumerate(memory or ())
        for name, tensor in block.named_tensors().items()
    }
    blocks = [len(state.memory), len(state.memory_before or ())]
    store.write(KIND, memory_names(state)[-1], tensors, {"blocks": blocks, "window": state.identity.window})


def _is_by(maker: Maker, chunk: Chunk) -> bool:
    known = chunk.entry is not None and chunk.text is not None
    return known and (chunk.weights, chunk.compute) == (maker.weights, maker.compute)


def _file_of(store: Store, chunk: Chunk) -> str | None:
    """The content of the file that made a chunk; files of one model in two dtypes have one fingerprint."""
    entry = store.read("chunks", chunk.key) if chunk.key else None
    return entry and entry.about.get("model")


def _memories(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Memories:
    after, before = (
        _memory(part, blocks, about["window"], tensors)
        for part, blocks in zip(Memories._fields, about["blocks"], strict=True)
    )
    assert after is not None, "a memory is kept of a scene that has chunks"
    return Memories(after, before)


def _memory(part: str, blocks: int, window: int | None, tensors: Mapping[str, Tensor]) -> Memory | None:
    named: list[dict[str, Tensor]] = [{} for _ in range(blocks)]
    for key, tensor in tensors.items():
        owner, block, name = key.split(".", 2)
        if owner == part:
            named[int(block)][name] = tensor
    return tuple(block_memory(each, window) for each in named) or None
