"""A stream's state: its memory, identity and history. An immutable value.

Without the memory it is light: everything was made, and can be shown; to go on, the memory is made again.
B batch, C channels, F latent frames, H W latent rows and columns. A new state shares the old one's unchanged
tensors. So branching costs nothing, and no function may write to a tensor that it didn't allocate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..config import STREAM_RULES, Family, family_named
from ..errors import StateError
from ..files.fingerprint import weights_fingerprint
from ..shapes import LatentGrid
from ..text.embedding import Embedding
from ..transformer.memory import Memory, memory_bytes, memory_tensors, memory_to
from .stream_model import StreamModel

# how a chunk began: first of its scene, under the text before, under a new one (two ways), or from a picture
ENTRIES = ("start", "same", "recache", "keep", "primed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The model and the video that a state belongs to."""

    fingerprint: str  # of the weights as stored in the file, before casts and LoRAs
    family: str
    channels: int
    rows: int  # of latents
    columns: int
    batch: int
    window: int | None = None  # earlier chunks that the memory looks back on; None for all

    @property
    def grid(self) -> LatentGrid:
        return LatentGrid(self.rows, self.columns)

    @property
    def rules(self) -> Family:
        return family_named(self.family)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """One chunk of the history: what was made, and how."""

    latents: Tensor  # [B, C, F, H, W] clean, model space, float32
    prompt: str
    digest: str  # of the prompt as the model saw it
    scene: int
    seed: int | None = None  # None for a primed chunk
    primed: bool = False
    loras: tuple[str, ...] = ()  # names
    rule: str = STREAM_RULES[0]  # of few_step
    # what absorbing it again needs to know; None in files of format 1
    entry: str | None = None  # one of ENTRIES
    text: Embedding | None = None
    weights: str = ""  # sha256 over the LoRAs' content and strengths; "" without any
    compute: str = ""  # compute_tag of the model
    # of the store: the name of this chunk, and its name wherever it was computed
    key: str | None = None
    anywhere: str | None = None

    @property
    def length(self) -> int:
        """Latent frames."""
        return self.latents.shape[2]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Story:
    """A stream's identity and history: all that showing it needs."""

    identity: Identity
    history: tuple[Chunk, ...] = ()
    scene: int = 0

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Those of the current scene."""
        return tuple(chunk for chunk in self.history if chunk.scene == self.scene)

    @property
    def position(self) -> int:
        """Latent frames in the current scene: the next one's rotary position, and number of its noise."""
        return sum(chunk.length for chunk in self.chunks)

    @property
    def frames(self) -> int:
        """Frames that the whole history decodes to, scene by scene."""
        per_scene: dict[int, int] = {}
        for chunk in self.history:
            per_scene[chunk.scene] = per_scene.get(chunk.scene, 0) + chunk.length
        compression = self.identity.rules.compression
        return sum(compression.frames(count) for count in per_scene.values())

    def frames_from(self, chunk: int) -> int:
        """Frames that the history decodes to from chunk number `chunk` (counted from 0) on."""
        return self.frames - replace(self, history=self.history[:chunk]).frames

    def only_row(self, row: int) -> LightState:
        """One video of the batch, to decode."""
        history = tuple(replace(chunk, latents=chunk.latents[row : row + 1]) for chunk in self.history)
        return LightState(identity=replace(self.identity, batch=1), history=history, scene=self.scene)

    @property
    def seconds(self) -> float:
        return self.frames / self.identity.rules.fps

    @property
    def plan(self) -> tuple[tuple[int, ...], ...]:
        """Chunk lengths in latent frames, scene by scene."""
        scenes: dict[int, list[int]] = {}
        for chunk in self.history:
            scenes.setdefault(chunk.scene, []).append(chunk.length)
        return tuple(tuple(lengths) for lengths in scenes.values())

    def story_tensors(self) -> list[Tensor]:
        """Of every chunk, and of each text once."""
        texts = {chunk.text.content: chunk.text for chunk in self.history if chunk.text is not None}
        latents = [chunk.latents for chunk in self.history]
        return latents + [tensor for text in texts.values() for tensor in text.tensors()]

    def tensors(self) -> list[Tensor]:
        """Every tensor that it holds."""
        return self.story_tensors()

    def _story_to(self, device: torch.device | str) -> tuple[Chunk, ...]:
        """The history on another device. Texts stay shared."""
        texts: dict[str, Embedding] = {}
        moved: list[Chunk] = []
        for chunk in self.history:
            if chunk.text is not None:
                text = texts.setdefault(chunk.text.content, chunk.text.to(device))
                chunk = replace(chunk, text=text)
            moved.append(replace(chunk, latents=chunk.latents.to(device)))
        return tuple(moved)

    def with_cut(self) -> StreamState:
        """The state at the start of a new scene. Nothing before it decides what is made in it."""
        scene = self.scene + 1 if self.position else self.scene
        return StreamState(identity=self.identity, history=self.history, scene=scene)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LightState(Story):
    """A stream between two chunks, without its memory: 4 MB a chunk at 480x832."""

    def to(self, device: torch.device | str) -> LightState:
        """The same state on another device; tensors that are already there are shared."""
        return replace(self, history=self._story_to(device))

    def with_chunk(self, chunk: Chunk) -> LightState:
        """The state after one more chunk that somebody has made."""
        return replace(self, history=(*self.history, chunk))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamState(Story):
    """A stream between two chunks."""

    memory: Memory | None = None  # after the last chunk of this scene; None at its start
    memory_before: Memory | None = None  # before the last chunk, where recache starts; no older one is kept

    @property
    def bytes(self) -> int:
        """Size of both memories in bytes, without the history."""
        return memory_bytes(self.memory) + memory_bytes(self.memory_before)

    def tensors(self) -> list[Tensor]:
        """Both memories', then the history's."""
        return memory_tensors(self.memory) + memory_tensors(self.memory_before) + self.story_tensors()

    def to(self, device: torch.device | str) -> StreamState:
        """The same state on another device; tensors that are already there are shared."""
        return replace(
            self,
            memory=memory_to(self.memory, device),
            memory_before=memory_to(self.memory_before, device),
            history=self._story_to(device),
        )

    def with_chunk(self, chunk: Chunk, memory: Memory) -> StreamState:
        """The state after one more chunk. The memory moves to `memory_before`, whose old value is dropped."""
        return replace(self, memory=memory, memory_before=self.memory, history=(*self.history, chunk))

    def light(self) -> LightState:
        """Without the memory."""
        return LightState(identity=self.identity, history=self.history, scene=self.scene)


def shared_embedding(story: Story, text: Embedding) -> Embedding:
    """The one that the story has of this content already, on the same device, or else this one."""
    known = (chunk.text for chunk in reversed(story.history) if chunk.text is not None)
    device = text.embeddings.device
    same = (each for each in known if each.content == text.content and each.embeddings.device == device)
    return next(same, text)


State: TypeAlias = StreamState | LightState


def model_identity(model: StreamModel) -> dict[str, Any]:
    """The part of an identity that the model decides. Weights without a file are hashed in memory."""
    fingerprint = model.fingerprint or weights_fingerprint(model.state_dict())
    return {"fingerprint": fingerprint, "family": model.family.name, "channels": model.config.channels}


def check_fits(
    state: Story,
    model: StreamModel,
    *,
    height: int | None = None,
    width: int | None = None,
    batch: int | None = None,
) -> None:
    """Raises StateError, naming both sides, if a state belongs to another model, size or batch."""
    identity, loaded = state.identity, model_identity(model)
    if identity.fingerprint != loaded["fingerprint"] or identity.channels != loaded["channels"]:
        raise StateError(
            f"This state was made by the model {identity.fingerprint[:12]} ({identity.family}, "
            f"{identity.channels} channels), but the model here is {loaded['fingerprint'][:12]} "
            f"({loaded['family']}, {loaded['channels']} channels). "
            "Load the model that made the state, or start a new stream."
        )
    size = identity.rules.compression.pixels(identity.grid)
    required = (size[0] if height is None else height, size[1] if width is None else width)
    if required != size:
        raise StateError(
            f"This state is of a video of {size[1]} x {size[0]} "
            f"(width x height), but {required[1]} x {required[0]} was asked for. "
            "A stream keeps its size: continue at the state's, or start a new one."
        )
    if batch is not None and batch != identity.batch:
        raise StateError(
            f"This state holds a batch of {identity.batch}, but {batch} was asked for. "
            "A stream keeps its batch: continue with the state's, or start a new one."
        )
