"""Chunks from the store, and those that it doesn't have from the model: look up, or make."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ..callbacks import Callbacks, Progress
from ..errors import FileError
from ..streaming.rebuild import Shelf, rebuild
from ..streaming.state import Chunk, LightState, State, Story, shared_embedding
from ..streaming.stream import ChunkName, Sampling, plan_extension, run_extension
from ..streaming.stream_model import StreamModel
from ..text.embedding import Embedding, embedding_of
from ..text.prompt import Prompt
from .entry import Entry
from .naming import Namer, name_of
from .store import Store

logger = logging.getLogger("sana_video")
LATENTS = "latents"


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
    """A checked request for chunks after `story`, with what the store has of them.

    `base` is where a memory is known, if the story has none. Histories are on the CPU.
    """

    model: StreamModel
    story: State
    requests: tuple[Request, ...]
    pieces: tuple[Piece, ...]
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
    moment, pieces, compute = story, list[Piece](), model.maker.compute
    before = name_of(story) if namer and store else ChunkName("", "")
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
                before = namer.sampled(before, entry, length, text, request.sampling)
                piece = _looked_up(store, piece._replace(name=before), resume, anywhere)
                before = piece.name
            pieces.append(piece)
            moment, entry = appended(moment, _stand_in(moment, request.prompt, piece)), "same"
    return Making(model=model, story=story, requests=tuple(requests), pieces=tuple(pieces), store=store)


def _looked_up(store: Store, piece: Piece, resume: bool, anywhere: bool) -> Piece:
    """The piece with what the store has of it, under its name or that of another machine."""
    keys = [piece.name.key] if resume else []
    keys += [key for key in store.anywhere(piece.name.anywhere) if key not in keys] if anywhere else []
    for key in keys:
        entry = store.read("chunks", key)
        if entry is not None and _is_of(entry, piece):
            name = ChunkName(key, piece.name.anywhere)
            return piece._replace(name=name, latents=entry.tensors[LATENTS], compute=entry.about["compute"])
    return piece


def _is_of(entry: Entry, piece: Piece) -> bool:
    latents = entry.tensors.get(LATENTS)
    return latents is not None and latents.shape[2] == piece.length and "compute" in entry.about


def _stand_in(story: Story, prompt: Prompt, piece: Piece) -> Chunk:
    """A chunk that isn't made yet, to plan those after it."""
    identity = story.identity
    size = (identity.batch, identity.channels, piece.length, *identity.grid)
    return _chunk(torch.empty(size, device="meta"), story, prompt, piece)


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
    begin: Callable[[], object] = lambda: None,
) -> Iterator[State]:
    """The state after each chunk, from the store or sampled; histories are on the CPU.

    `begin` is called before every call of the model, for a host that may have to load it. What was sampled is
    in the store before it is yielded, if that can be written. Raises as `run_extension` and `rebuild` do.
    """
    work = _Making(making, shelf, callbacks or Callbacks(), begin)
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
        self, making: Making, shelf: Shelf | None, callbacks: Callbacks, begin: Callable[[], object]
    ) -> None:
        self.model, self.store, self.total = making.model, making.store, len(making.pieces)
        self.shelf, self.callbacks, self.begin = shelf, callbacks, begin
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
        state = rebuild(
            self.model,
            extension.state,
            base=self.whole,
            shelf=self.shelf,
            callbacks=Callbacks(self._cancelled),
            device=self.model.device,
        )
        names = tuple(piece.name for piece in pieces) if self.store else ()
        extension, work = replace(extension, state=state, names=names), self._counted()
        device = self.model.device
        for newer in run_extension(self.model, extension, callbacks=work, device=device):
            chunk = newer.history[-1]
            chunk = replace(chunk, latents=chunk.latents.cpu(), text=pieces[0].text)
            self.story = self.whole = replace(newer, history=(*self.story.history, chunk))
            self._keep(chunk)
            self.done += 1
            yield self.story

    def _counted(self) -> Callbacks:
        """Callbacks that count the chunks of the whole making."""
        done, total = self.done, self.total

        def progress(news: Progress) -> None:
            number = news.chunk + done if news.chunk else 0  # 0: recache, before the first chunk
            self.callbacks.progress(news._replace(chunk=number, chunks=total))

        return Callbacks(self._cancelled, progress)

    def _cancelled(self) -> bool:
        """Asked before every call of the model."""
        self.begin()
        return self.callbacks.cancelled()

    def _keep(self, chunk: Chunk) -> None:
        if self.store is None or chunk.key is None or chunk.anywhere is None:
            return
        about = {"compute": chunk.compute, "prompt": chunk.prompt, "seed": chunk.seed, "entry": chunk.entry}
        try:
            self.store.write("chunks", chunk.key, {LATENTS: chunk.latents}, about)
            self.store.add_anywhere(chunk.anywhere, chunk.key)
        except FileError as error:
            logger.warning("%s The film goes on; after a crash, it would begin again from here.", error)
            self.store = None
