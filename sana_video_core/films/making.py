"""Chunks from the store, and those that it doesn't have from the model: look up, or make."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ..callbacks import Callbacks, Progress
from ..streaming.rebuild import Shelf, rebuild
from ..streaming.state import Chunk, LightState, State, Story, StreamState, shared_embedding
from ..streaming.stream import ChunkName, Sampling, plan_extension, run_extension
from ..streaming.stream_model import StreamModel
from ..text.embedding import Embedding, embedding_of
from ..text.prompt import Prompt
from .entry import Entry
from .keeping import LATENTS, Keeping
from .naming import Namer, absorbed_again, name_of
from .store import Store

NAMELESS = ChunkName("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Chunks under one prompt."""

    prompt: Prompt
    sampling: Sampling
    chunks: int
    opens: bool = False  # a new scene, whatever the prompt before


class Piece(NamedTuple):
    """One chunk to be: its place, its name, and its latents if the store has them."""

    request: int
    entry: str
    length: int
    text: Embedding
    name: ChunkName
    latents: Tensor | None  # [B, C, F, H, W]
    compute: str
    scene: int


@dataclass(frozen=True, kw_only=True)
class Making:
    """A checked request for chunks after `story`, with what the store has of them."""

    model: StreamModel
    story: State
    requests: tuple[Request, ...]
    pieces: tuple[Piece, ...]
    namer: Namer | None
    store: Store | None

    @property
    def missing(self) -> int:
        """How many chunks have to be sampled."""
        return sum(piece.latents is None for piece in self.pieces)


def plan_making(
    model: StreamModel,
    story: State,
    requests: Sequence[Request],
    *,
    namer: Namer | None = None,
    store: Store | None = None,
    resume: bool = True,
    anywhere: bool = False,
) -> Making:
    """Plan all chunks and look them up. Whatever cannot work raises here, before any work.

    Without a `namer` or a `store` everything is to be sampled. With `anywhere`, chunks that another machine
    has made are taken, too. Without `resume` nothing is taken.
    """
    if namer and store:
        story = namer.named(story)
    moment, pieces, compute = story, list[Piece](), model.maker.compute
    before = name_of(story) if namer and store else NAMELESS
    for number, request in enumerate(requests):
        if request.opens and moment.position:
            moment = moment.with_cut()
        extension = plan_extension(model, moment, request.prompt, request.sampling, chunks=request.chunks)
        text, entry = shared_embedding(moment, embedding_of(request.prompt)), extension.entry
        if entry == "cut":
            moment, entry = moment.with_cut(), "start"
        if entry == "start" and namer and store:
            before = name_of(moment)
        for length in extension.plan:
            piece = Piece(number, entry, length, text, before, None, compute, moment.scene)
            if namer and store:
                before = before if _is_at_hand(moment, compute) else absorbed_again(before, compute)
                before = namer.sampled(before, entry, length, text, request.sampling)
                piece = _looked_up(store, moment, piece._replace(name=before), resume, anywhere)
                before = piece.name
            pieces.append(piece)
            moment, entry = appended(moment, _stand_in(moment, request.prompt, piece)), "same"
    return Making(
        model=model,
        story=story,
        requests=tuple(requests),
        pieces=tuple(pieces),
        namer=namer,
        store=store,
    )


def _is_at_hand(story: Story, compute: str) -> bool:
    """Whether the memory to go on from is that of the machine that made the last chunk."""
    whole = isinstance(story, StreamState) or not story.position
    return whole or story.history[-1].compute == compute


def _looked_up(store: Store, story: Story, piece: Piece, resume: bool, anywhere: bool) -> Piece:
    """The piece with what the store has of it, under its name or that of another machine."""
    others = store.anywhere(piece.name.anywhere) if anywhere else ()
    for key in dict.fromkeys((piece.name.key, *others)) if resume else ():
        entry = store.read("chunks", key)
        if entry is not None and _is_of(entry, story, piece):
            name = ChunkName(key, piece.name.anywhere)
            return piece._replace(name=name, latents=entry.tensors[LATENTS], compute=entry.about["compute"])
    return piece


def _is_of(entry: Entry, story: Story, piece: Piece) -> bool:
    latents, size = entry.tensors.get(LATENTS), _size(story, piece)
    fits = latents is not None and latents.shape == size and latents.dtype == torch.float32
    return fits and isinstance(entry.about.get("compute"), str)


def _size(story: Story, piece: Piece) -> tuple[int, ...]:
    identity = story.identity
    return (identity.batch, identity.channels, piece.length, *identity.grid)


def _stand_in(story: Story, prompt: Prompt, piece: Piece) -> Chunk:
    """A chunk that isn't made yet, to plan those after it."""
    return _chunk(torch.empty(_size(story, piece), device="meta"), story, prompt, piece)


def _chunk(latents: Tensor, story: Story, prompt: Prompt, piece: Piece, **how: object) -> Chunk:
    return Chunk(
        latents=latents,
        prompt=prompt.text,
        digest=prompt.digest,
        scene=story.scene,
        entry=piece.entry,
        text=piece.text,
        compute=piece.compute,
        key=piece.name.key or None,
        anywhere=piece.name.anywhere or None,
        **how,  # pyright: ignore[reportArgumentType]
    )


def appended(story: Story, chunk: Chunk) -> LightState:
    """The story after one more chunk that somebody has made."""
    return LightState(identity=story.identity, history=(*story.history, chunk), scene=story.scene)


def make(
    making: Making,
    *,
    shelf: Shelf | None = None,
    callbacks: Callbacks | None = None,
    absorbing: Callbacks | None = None,
    begin: Callable[[], object] = lambda: None,
) -> Generator[State, None, None]:
    """The state after each chunk, from the store or sampled; histories are on the CPU.

    `begin` is called before every call of the model, for a host that may have to load it; `absorbing` is told
    of memories that are made again. What was sampled is written to the store while the next chunk is, at the
    latest by the end of its first model call. If that fails, a warning says so, and nothing more is written.
    Raises as `run_extension` and `rebuild` do.
    """
    with Keeping(making.store, making.namer) as keeping:
        callbacks = callbacks or Callbacks()
        absorbing = absorbing or Callbacks(callbacks.cancelled)
        work = _Making(making, keeping, shelf, callbacks, absorbing, begin)
        for (number, known), group in groupby(
            making.pieces, lambda each: (each.request, each.latents is not None)
        ):
            request, pieces = making.requests[number], list(group)
            if pieces[0].entry == "start":
                work.open_scene()
            yield from (work.found if known else work.sampled)(request, pieces)


class _Making:
    """Where a making is."""

    def __init__(
        self,
        making: Making,
        keeping: Keeping,
        shelf: Shelf | None,
        callbacks: Callbacks,
        absorbing: Callbacks,
        begin: Callable[[], object],
    ) -> None:
        self.model, self.total = making.model, len(making.pieces)
        self.keeping, self.shelf, self.begin = keeping, shelf, begin
        self.callbacks, self.absorbing = callbacks, absorbing
        self.story: State = making.story
        self.whole: State | None = making.story  # the newest state with a memory, where a rebuild may begin
        self.done = 0

    def open_scene(self) -> None:
        if self.story.position:
            self.story, self.whole = self.story.with_cut(), None

    def found(self, request: Request, pieces: list[Piece]) -> Iterator[State]:
        """The chunks that the store has."""
        maker, sampling = self.model.maker, request.sampling
        how = {"seed": sampling.seed, "rule": sampling.rule, "loras": maker.labels, "weights": maker.weights}
        for piece in pieces:
            self.callbacks.check(f"at chunk {self.done + 1} of {self.total}")
            assert piece.latents is not None
            chunk = _chunk(piece.latents, self.story, request.prompt, piece, **how)
            self.story = appended(self.story, chunk)
            self.done += 1
            self.callbacks.progress(Progress(self.done, self.total, 1, 1, None))
            yield self.story

    def sampled(self, request: Request, pieces: list[Piece]) -> Iterator[State]:
        """The chunks that it doesn't have."""
        self.begin()
        plan = tuple(piece.length for piece in pieces)
        extension = plan_extension(self.model, self.story, request.prompt, request.sampling, plan=plan)
        self._keep_beginning(extension.state)
        state = self._rebuilt(extension.state)
        names = tuple(piece.name for piece in pieces if piece.name != NAMELESS)
        extension, work = replace(extension, state=state, names=names), self._counted()
        device = self.model.device
        for newer in run_extension(self.model, extension, callbacks=work, device=device):
            chunk = newer.history[-1]
            chunk = replace(chunk, latents=chunk.latents.cpu(), text=pieces[0].text)
            self.story = self.whole = replace(newer, history=(*self.story.history, chunk))
            self.keeping.chunk(chunk)
            self.done += 1
            yield self.story

    def _keep_beginning(self, state: State) -> None:
        """What comes before the chunks that are sampled, and no sampler has kept."""
        for chunk in state.chunks:
            if chunk.primed:
                self.keeping.chunk(chunk)
        self.keeping.memory(state)

    def _rebuilt(self, state: State) -> StreamState:
        """With its memory. After another machine's chunk it is made again here, from the whole scene."""
        known = _is_at_hand(state, self.model.maker.compute)
        return rebuild(
            self.model,
            state,
            base=self.whole if known else None,
            shelf=self.shelf if known else None,
            callbacks=self.absorbing,
            device=self.model.device,
        )

    def _counted(self) -> Callbacks:
        """Callbacks that count the chunks of the whole making."""
        done, total = self.done, self.total

        def progress(news: Progress) -> None:
            self.keeping.settle()  # so a kill costs no more than this chunk
            number = news.chunk + done if news.chunk else 0  # 0: recache, before the first chunk
            self.callbacks.progress(news._replace(chunk=number, chunks=total))

        return Callbacks(self._cancelled, progress)

    def _cancelled(self) -> bool:
        """Asked before every call of the model."""
        self.begin()
        return self.callbacks.cancelled()
