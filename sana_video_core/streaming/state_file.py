"""A state as one safetensors file: named tensors, versioned metadata, never pickle.

Format 2. Metadata: `sana_video_state` (the version) and `state` (JSON: identity, scene, `story` for the
history without its tensors, whether it is `light`, and the number of blocks in each memory). Tensors:
`memory.B.` and `memory_before.B.` followed by the names of block B's memory (BlockMemory.named_tensors),
`story.I.latents` of chunk I, and `text.T.embeddings` and `text.T.mask` of text T: `texts` has their contents'
names, and chunks their numbers. Beside them may stand `workflow`, for ComfyUI's page. Format 1 knew no light
states, no texts, and not how a chunk began; its states are whole.
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
from ..errors import FileError, StateError
from ..files.finite import check_finite
from ..files.tensor_file import parse_json, read_metadata, read_safetensors, write_tensors
from ..text.embedding import Embedding, named_embedding
from ..transformer.memory import Memory, MemorySize, block_memory
from .state import ENTRIES, Chunk, Identity, LightState, State, Story, StreamState

FORMAT = "sana_video_state"
VERSION = 2
READABLE = ("1", "2")
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
    "entry": (str, type(None)),  # this and the rest: absent in format 1
    "weights": (str,),
    "compute": (str,),
    "key": (str, type(None)),
    "anywhere": (str, type(None)),
}
OLDER = {"rule": STREAM_RULES[0], "entry": None, "weights": "", "compute": "", "key": None, "anywhere": None}


def save_state(state: State, path: Path | str, workflow: str = "") -> None:
    """Write a state. If that raises FileError, an older file of this name stays as it was."""
    if isinstance(state, LightState):
        check_light(state)
    texts = _texts(state)
    described = {
        "identity": asdict(state.identity),
        "scene": state.scene,
        "light": isinstance(state, LightState),
        "texts": [text.content for text in texts],
        "blocks": {name: len(memory or ()) for name, memory in _memories(state).items()},
        "story": [
            {name: getattr(chunk, name) for name in CHUNK_FIELDS} | {"text": _number(chunk.text, texts)}
            for chunk in state.history
        ],
    }
    metadata = {FORMAT: str(VERSION), "state": json.dumps(described), "workflow": workflow}
    write_tensors(path, _named_tensors(state), {name: text for name, text in metadata.items() if text})


def check_light(state: Story) -> None:
    """Raises StateError unless the state can be saved without its memory, to make that again later."""
    for number, chunk in enumerate(state.history):
        if chunk.entry is None or chunk.text is None:
            raise StateError(
                f"Chunk {number} of this stream comes from an older state file, which doesn't say how it was "
                "made, so the memory couldn't be made again from the history. Save everything."
            )
    for earlier, chunk in pairwise(state.chunks):
        if chunk.weights != earlier.weights:
            loras = (" and ".join(each.loras) or "none" for each in (earlier, chunk))
            raise StateError(
                f"The LoRAs of this stream changed within a scene (from {' to '.join(loras)}), so no single "
                "model could make the memory again from the history. Save everything."
            )


def load_state(path: Path | str) -> State:
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
        check_finite(tensors, path)
        state = _state_from(described, tensors)
        _check(state, tensors)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        known = {KeyError: f"{error} is missing", ValueError: f"{error}", StateError: f"{error}"}
        reason = known.get(type(error), "its parts do not fit")
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
    if version not in READABLE:
        raise FileError(
            f"“{path.name}” is a state of format {version}; "
            f"this version of the pack reads formats 1 to {VERSION}. Update the pack."
        )


def _state_from(described: Any, tensors: Mapping[str, Tensor]) -> State:
    identity = Identity(**_fields(described["identity"], IDENTITY_FIELDS))
    contents, texts = described.get("texts", []), dict[int, Embedding]()
    history = []
    for i, entry in enumerate(described["story"]):
        fields = _fields({**OLDER, **entry}, CHUNK_FIELDS)
        check_choice(f"the rule of chunk {i}", fields["rule"], STREAM_RULES)
        if fields["entry"] is not None:
            check_choice(f"the beginning of chunk {i}", fields["entry"], ENTRIES)
        if not all(isinstance(lora, str) for lora in fields["loras"]):
            raise ValueError(f"the LoRAs of chunk {i} are {fields['loras']}")
        fields["loras"] = tuple(fields["loras"])
        text = _text_from(entry.get("text"), contents, texts, tensors)
        history.append(Chunk(latents=tensors[f"story.{i}.latents"], text=text, **fields))
    scene = _fields(described, {"scene": (int,)})["scene"]
    story: Any = {"identity": identity, "scene": scene, "history": tuple(history)}
    memories: Any = {
        name: _memory_from(name, described["blocks"][name], identity.window, tensors)
        for name in ("memory", "memory_before")
    }
    if _fields({"light": False, **described}, {"light": (bool,)})["light"]:
        if any(memories.values()):
            raise ValueError("it has a memory and says that it has none")
        return LightState(**story)
    return StreamState(**story, **memories)


def _text_from(
    number: Any, contents: list[str], texts: dict[int, Embedding], tensors: Mapping[str, Tensor]
) -> Embedding | None:
    """The text of this number, which several chunks share."""
    if number is None:
        return None
    if type(number) is not int:
        raise ValueError(f"a text's number is {number!r}")
    if number not in texts:
        embeddings, mask = tensors[f"text.{number}.embeddings"], tensors.get(f"text.{number}.mask")
        if embeddings.ndim != 3 or embeddings.dtype != torch.float32:
            raise ValueError(f"text.{number}.embeddings is {embeddings.dtype} of {list(embeddings.shape)}")
        if mask is not None and (mask.shape != embeddings.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(f"text.{number}.mask is {mask.dtype} of {list(mask.shape)}")
        texts[number] = named_embedding(embeddings, mask)
        if texts[number].content != contents[number]:
            raise ValueError(f"text.{number} isn't what it was")
    return texts[number]


def _fields(record: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """A record's fields, each present and of its exact type (true isn't an int here)."""
    for name, kind in kinds.items():
        if type(record[name]) not in kind:
            raise ValueError(f"{name} is {record[name]!r}")
    return {name: record[name] for name in kinds}


def _check(state: State, tensors: Mapping[str, Tensor]) -> None:
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
    if isinstance(state, StreamState):
        _check_memories(state, scenes.count(state.scene))
    elif not state.position:
        raise ValueError("there is nothing in its scene, so it can't be without a memory")
    else:
        check_light(state)
    unused = sorted(tensors.keys() - _named_tensors(state).keys())
    if unused:
        raise ValueError(f"nothing says what {unused[0]} is")


def _check_memories(state: StreamState, chunks: int) -> None:
    """Raises ValueError unless both memories are those of a scene of `chunks` chunks."""
    identity = state.identity
    _check_memory("memory", state.memory, identity, chunks)
    _check_memory("memory_before", state.memory_before, identity, chunks - 1)
    kinds = _kinds(state.memory)
    if len({size for kind, size in kinds}) > len({kind for kind, _ in kinds}):
        raise ValueError("its blocks are of different models")
    if state.memory_before is not None and _kinds(state.memory_before) != kinds:
        raise ValueError("its two memories are of different models")


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


def _memories(state: State) -> dict[str, Memory | None]:
    if isinstance(state, LightState):
        return {"memory": None, "memory_before": None}
    return {"memory": state.memory, "memory_before": state.memory_before}


def _texts(state: Story) -> list[Embedding]:
    """Each text of the history once."""
    return list({chunk.text.content: chunk.text for chunk in state.history if chunk.text}.values())


def _number(text: Embedding | None, texts: list[Embedding]) -> int | None:
    return None if text is None else [each.content for each in texts].index(text.content)


def _named_tensors(state: State) -> dict[str, Tensor]:
    """Every tensor of a state under its name in the file."""
    tensors = {f"story.{i}.latents": chunk.latents for i, chunk in enumerate(state.history)}
    for number, text in enumerate(_texts(state)):
        tensors[f"text.{number}.embeddings"] = text.embeddings
        if text.mask is not None:
            tensors[f"text.{number}.mask"] = text.mask
    for name, memory in _memories(state).items():
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
