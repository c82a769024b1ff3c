"""A stream's state: its memory, identity and history. An immutable value.

B batch, C channels, F latent frames, H W latent rows and columns. A new state shares the old one's unchanged
tensors. So branching costs nothing, and no function may write to a tensor that it didn't allocate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..config import STREAM_RULES, Family, family_named
from ..errors import StateError
from ..files.fingerprint import weights_fingerprint
from ..shapes import LatentGrid
from ..transformer.memory import Memory, memory_bytes, memory_tensors, memory_to
from .stream_model import StreamModel


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
    loras: tuple[str, ...] = ()
    rule: str = STREAM_RULES[0]  # of few_step

    @property
    def length(self) -> int:
        """Latent frames."""
        return self.latents.shape[2]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamState:
    """A stream between two chunks."""

    identity: Identity
    memory: Memory | None = None  # after the last chunk of this scene; None at its start
    memory_before: Memory | None = None  # before the last chunk, where recache starts; no older one is kept
    history: tuple[Chunk, ...] = ()
    scene: int = 0

    @property
    def position(self) -> int:
        """Latent frames in the current scene: the rotary position of the next one."""
        return sum(chunk.length for chunk in self.history if chunk.scene == self.scene)

    @property
    def latent_frames(self) -> int:
        """Latent frames in the whole stream: the noise index of the next one."""
        return sum(chunk.length for chunk in self.history)

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

    def only_row(self, row: int) -> StreamState:
        """One video of the batch, to decode: its history without a memory."""
        history = tuple(replace(chunk, latents=chunk.latents[row : row + 1]) for chunk in self.history)
        return replace(
            self, identity=replace(self.identity, batch=1), memory=None, memory_before=None, history=history
        )

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

    @property
    def bytes(self) -> int:
        """Size of both memories in bytes, without the history."""
        return memory_bytes(self.memory) + memory_bytes(self.memory_before)

    def tensors(self) -> list[Tensor]:
        """Every tensor of the state: both memories, then the history."""
        memories = memory_tensors(self.memory) + memory_tensors(self.memory_before)
        return memories + [chunk.latents for chunk in self.history]

    def to(self, device: torch.device | str) -> StreamState:
        """The same state on another device; tensors that are already there are shared."""
        return replace(
            self,
            memory=memory_to(self.memory, device),
            memory_before=memory_to(self.memory_before, device),
            history=tuple(replace(chunk, latents=chunk.latents.to(device)) for chunk in self.history),
        )

    def with_chunk(self, chunk: Chunk, memory: Memory) -> StreamState:
        """The state after one more chunk. The memory moves to `memory_before`, whose old value is dropped."""
        return replace(self, memory=memory, memory_before=self.memory, history=(*self.history, chunk))

    def with_cut(self) -> StreamState:
        """The state at the start of a new scene: no memory; history, frame count and noise continue."""
        return replace(self, memory=None, memory_before=None, scene=self.scene + 1) if self.position else self


def model_identity(model: StreamModel) -> dict[str, Any]:
    """The part of an identity that the model decides. Weights without a file are hashed in memory."""
    fingerprint = model.fingerprint or weights_fingerprint(model.state_dict())
    return {"fingerprint": fingerprint, "family": model.family.name, "channels": model.config.channels}


def check_fits(
    state: StreamState,
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
