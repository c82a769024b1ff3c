"""A scene's memory, made again by absorbing its chunks: the same bits as when they were sampled.

Each chunk is absorbed under the text it was made under, with the recaches as they happened. Denoising only
reads the memory, so this is one pass a chunk where sampling took five.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from threading import Lock
from typing import NamedTuple, Protocol

import torch

from ..callbacks import Callbacks
from ..errors import StateError
from ..transformer.memory import Memory, memory_bytes, memory_to
from .chunk_runner import ChunkRunner
from .state import Chunk, LightState, Story, StreamState, check_fits
from .stream_model import StreamModel


class Memories(NamedTuple):
    """What a state has besides its history."""

    after: Memory  # the last chunk of the scene
    before: Memory | None


class Shelf(Protocol):
    """Keeps memories by the name that `memory_names` gives them."""

    def get(self, name: str) -> Memories | None: ...
    def put(self, name: str, memories: Memories) -> None: ...


class MemoryCache:
    """The newest memories, up to so many bytes. The newest one stays, whatever its size."""

    def __init__(self, most: int = 1 << 30) -> None:
        self._most, self._kept, self._lock = most, OrderedDict[str, Memories](), Lock()

    def get(self, name: str) -> Memories | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def put(self, name: str, memories: Memories) -> None:
        with self._lock:
            self._kept[name] = memories
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self._most:
                self._kept.popitem(last=False)


def _bytes(memories: Memories) -> int:
    return memory_bytes(memories.after) + memory_bytes(memories.before)


def memory_names(story: Story) -> list[str]:
    """A name for the memory after each chunk of the scene: sha256 of all that decided it."""
    name, names = json.dumps(asdict(story.identity), sort_keys=True), []
    for chunk in story.chunks:
        latents = hashlib.sha256(chunk.latents.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        text = chunk.text and chunk.text.content
        fields = [name, latents, list(chunk.latents.shape), chunk.entry, text, chunk.weights, chunk.compute]
        name = hashlib.sha256(json.dumps(fields).encode("utf-8", "surrogatepass")).hexdigest()
        names.append(name)
    return names


def rebuild(
    model: StreamModel,
    story: Story,
    *,
    base: Story | None = None,
    shelf: Shelf | None = None,
    callbacks: Callbacks | None = None,
    device: torch.device | str = "cpu",
) -> StreamState:
    """The state that goes on from `story`, its memory on `device`. One that has a memory comes back as it is.

    It begins at the newest memory that is known: `base`, if it is an earlier state of the same scene, or one
    on the `shelf`; else at the scene's first chunk. Raises StateError if this model didn't make the chunks.
    """
    check_fits(story, model)
    if isinstance(story, StreamState):
        return story
    names = memory_names(story) if shelf else []
    begun, known = _nearest(story, base, names, shelf)
    if begun < len(story.chunks):
        check_rebuild(model, story, begun)
        known = _absorbed(model, story, begun, known, callbacks or Callbacks())
        if shelf:  # not on the GPU, which the artist's next model wants
            shelf.put(names[-1], Memories(memory_to(known.after, "cpu"), memory_to(known.before, "cpu")))
    assert known is not None, "an empty scene's state is whole"
    return StreamState(
        identity=story.identity,
        history=story.history,
        scene=story.scene,
        memory=memory_to(known.after, device),
        memory_before=memory_to(known.before, device),
    )


def check_rebuild(model: StreamModel, story: Story, begun: int = 0) -> None:
    """Raises StateError unless this model can absorb the scene's chunks from number `begun` on again."""
    weights = model.maker.weights
    for number, chunk in enumerate(story.chunks[begun:], begun + len(story.history) - len(story.chunks)):
        if chunk.entry is None or chunk.text is None:
            raise StateError(
                f"Chunk {number} of this stream comes from an older state file, which doesn't say how it was "
                "made, so its memory can't be made again. Continue from a state that was saved whole."
            )
        if chunk.weights != weights:
            raise StateError(
                f"Chunk {number} of this stream was made {_with(chunk.loras)}, and the model here is "
                f"{_with(model.maker.labels)}. Its memory can only be made again by the model that made it: "
                "connect that one, or continue from a state that was saved whole."
            )


def _with(loras: tuple[str, ...]) -> str:
    return f"with the LoRA{'s' * (len(loras) > 1)} {' and '.join(loras)}" if loras else "without a LoRA"


def _nearest(
    story: Story, base: Story | None, names: list[str], shelf: Shelf | None
) -> tuple[int, Memories | None]:
    """How many of the scene's chunks are in the newest memory that is known, and that memory."""
    begun, known = 0, None
    if isinstance(base, StreamState) and base.memory is not None and _continues(story, base):
        begun, known = len(base.chunks), Memories(base.memory, base.memory_before)
    for number in range(len(names), begun, -1):
        found = shelf.get(names[number - 1]) if shelf else None
        if found is not None:
            return number, found
    return begun, known


def _continues(story: Story, base: Story) -> bool:
    """Whether `base` is an earlier moment of the story's scene: the same chunks, as values."""
    same = len(base.history) <= len(story.history) and base.scene == story.scene
    pairs = zip(base.history, story.history, strict=False)
    return same and all(
        a.latents is b.latents or torch.equal(a.latents.cpu(), b.latents.cpu()) for a, b in pairs
    )


def _absorbed(
    model: StreamModel, story: Story, begun: int, known: Memories | None, callbacks: Callbacks
) -> Memories:
    """The memories after the scene, from those after its first `begun` chunks. On the model's device."""
    scene, device = story.chunks, model.device
    after, before = (
        (memory_to(known.after, device), memory_to(known.before, device)) if known else (None, None)
    )
    runners = _runners(model, scene[begun:], callbacks)
    for number in range(begun, len(scene)):
        chunk, runner = scene[number], next(runners)
        if chunk.entry == "recache" and number:
            last = scene[number - 1].latents.to(device)
            after = runner.absorb(_moment(story, number - 1), before, last)
        runner.begin_chunk()
        before, after = after, runner.absorb(_moment(story, number), after, chunk.latents.to(device))
        runner.settle()
    assert after is not None
    return Memories(after, before)


def _moment(story: Story, chunks: int) -> LightState:
    """The story after so many chunks of its scene."""
    earlier = len(story.history) - len(story.chunks)
    return LightState(identity=story.identity, history=story.history[: earlier + chunks], scene=story.scene)


@torch.no_grad()
def _runners(model: StreamModel, chunks: tuple[Chunk, ...], callbacks: Callbacks) -> Iterator[ChunkRunner]:
    """For each chunk a runner under its text. It counts where the work is."""
    prepared: dict[str, ChunkRunner] = {}
    for number, chunk in enumerate(chunks):
        text = chunk.text
        assert text is not None, "checked"
        if text.content not in prepared:
            prepared = {text.content: ChunkRunner(
                model,
                model.prepare_text(text.embeddings, text.mask),
                callbacks,
                chunks=len(chunks),
                calls_per_chunk=1,
                device=model.device,
            )}  # fmt: skip
        runner = prepared[text.content]
        runner.chunk = number
        yield runner
