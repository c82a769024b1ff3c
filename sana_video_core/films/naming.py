"""Names for chunks before they are made: what a store has them under."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ..config import Family
from ..streaming.rebuild import memory_names
from ..streaming.state import Chunk, State, Story, StreamState
from ..streaming.stream import ChunkName, Sampling
from ..text.embedding import Embedding
from ..transformer.maker import Maker
from .keys import Link, Root, json_digest, tensors_digest

ABSORB = "clean pass"  # how a chunk enters the memory; an experiment has another name


class Namer(NamedTuple):
    """Names what one model makes."""

    content: str  # of the model's file or folder
    maker: Maker

    def sampled(
        self, before: ChunkName, entry: str, length: int, text: Embedding, sampling: Sampling
    ) -> ChunkName:
        how = {name: getattr(sampling, name) for name in ("seed", "sampler", "steps", "shift", "rule")}
        return self._name(before, entry=entry, length=length, embedding=text.content, absorb=ABSORB, **how)

    def primed(self, before: ChunkName, chunk: Chunk) -> ChunkName:
        assert chunk.text is not None, "a chunk that was primed here has its text"
        latents = tensors_digest({"latents": chunk.latents})
        fields = {"length": chunk.length, "embedding": chunk.text.content, "latents": latents}
        return self._name(before, entry="primed", **fields)

    def named(self, story: State) -> State:
        """The story with names for its scene's chunks, if those were all primed by this model."""
        scene, name, chunks = story.chunks, _root(story), list[Chunk]()
        if not scene or not all(chunk.primed and chunk.key is None and self._made(chunk) for chunk in scene):
            return story
        for chunk in scene:
            name = self.primed(name, chunk)
            chunks.append(replace(chunk, key=name.key, anywhere=name.anywhere))
        earlier = len(story.history) - len(scene)
        return replace(story, history=(*story.history[:earlier], *chunks))

    def _made(self, chunk: Chunk) -> bool:
        made_by = (chunk.weights, chunk.compute)
        return chunk.text is not None and made_by == (self.maker.weights, self.maker.compute)

    def _name(self, before: ChunkName, **fields: object) -> ChunkName:
        loras = tuple((lora.content, lora.strength) for lora in self.maker.loras)
        link = Link(
            before=before.key,
            model=self.content,
            compute=self.maker.compute,
            loras=loras,
            **fields,  # pyright: ignore[reportArgumentType]
        )
        return ChunkName(link.key, link.anywhere(before.anywhere))


def name_of(story: Story) -> ChunkName:
    """What the next chunk of a story follows: the scene's last chunk, or the scene's root."""
    if not story.position:
        return _root(story)
    last = story.history[-1]
    if last.key is not None and last.anywhere is not None:
        return ChunkName(last.key, last.anywhere)
    return _root(story, _content(story))


def absorbed_again(before: ChunkName, compute: str) -> ChunkName:
    """What a chunk follows if the memory before it was lost, and made again by another machine."""
    key = json_digest({"what": "absorbed again", "before": before.key, "compute": compute})
    return ChunkName(key, before.anywhere)


def _root(story: Story, tensors: str | None = None) -> ChunkName:
    identity, rule = story.identity, _rules(story).chunks
    root = Root(
        family=identity.family,
        rows=identity.rows,
        columns=identity.columns,
        channels=identity.channels,
        batch=identity.batch,
        window=identity.window,
        first=rule.first,
        following=rule.base,
        tensors=tensors,
    )
    return ChunkName(root.key, root.anywhere)


def _rules(story: Story) -> Family:
    return story.identity.rules


def _content(story: Story) -> str:
    """Of a state whose chunks have no names: all that can decide what follows it."""
    if not isinstance(story, StreamState):
        return memory_names(story)[-1]
    parts: dict[str, object] = {}
    for name, memory in (("memory", story.memory), ("memory_before", story.memory_before)):
        for b, block in enumerate(memory or ()):
            parts |= {f"{name}.{b}.{part}": tensor for part, tensor in block.named_tensors().items()}
    parts |= {"last": story.history[-1].latents}  # what a recache reads
    return tensors_digest(parts)  # pyright: ignore[reportArgumentType]
