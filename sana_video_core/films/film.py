"""A film: its chunks from the store or the model, its frames in a file that grows meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from torch import Tensor

from ..callbacks import Callbacks
from ..config import PROMPT_CHANGES
from ..errors import FileError
from ..files.film_file import FilmFile
from ..streaming.rebuild import Shelf
from ..streaming.report import stream_metadata
from ..streaming.state import State
from ..streaming.stream import Sampling
from ..text.prompt import Prompt
from .making import Making, Request, make
from .manifest import Manifest
from .plan import Plan
from .projector import Projector, Screen
from .reel import Part, Reel

logger = logging.getLogger("sana_video")


@dataclass(frozen=True, kw_only=True)
class Outline:
    """All chunks of a film's story, those before it too: scene, latent frames and name of each."""

    scenes: tuple[int, ...]
    lengths: tuple[int, ...]
    names: tuple[str | None, ...]
    frames: tuple[int, ...]
    from_chunk: int  # the first one that the film shows

    @property
    def parts(self) -> tuple[Part, ...]:
        pairs = zip(self.names, self.frames, strict=True)
        return tuple(Part(name, frames) for name, frames in pairs)[self.from_chunk :]


def outline_of(making: Making, from_chunk: int) -> Outline:
    history, pieces = making.story.history, making.pieces
    scenes = [chunk.scene for chunk in history] + [piece.scene for piece in pieces]
    lengths = [chunk.length for chunk in history] + [piece.length for piece in pieces]
    names = [chunk.key for chunk in history] + [piece.name.key or None for piece in pieces]
    count = making.story.identity.rules.compression.frames
    frames, before = list[int](), dict[int, int]()
    for scene, length in zip(scenes, lengths, strict=True):
        position = before.get(scene, 0)
        frames.append(count(position + length) - count(position))
        before[scene] = position + length
    return Outline(
        scenes=tuple(scenes),
        lengths=tuple(lengths),
        names=tuple(names),
        frames=tuple(frames),
        from_chunk=from_chunk,
    )


def requests_of(plan: Plan, prompts: Mapping[str, Prompt], sampling: Sampling) -> tuple[Request, ...]:
    """What a plan asks a model for. `prompts` are those of its texts."""
    requests = []
    for shot in plan.shots:
        change = shot.change if shot.change in PROMPT_CHANGES[:2] else PROMPT_CHANGES[0]
        how = replace(sampling, seed=shot.seed, on_prompt_change=change)
        cut = shot.change == "cut"
        requests.append(Request(prompt=prompts[shot.text], sampling=how, chunks=shot.chunks, opens=cut))
    return tuple(requests)


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film that is ready to be made: `states` makes it, in its file's `with` block."""

    making: Making
    outline: Outline
    file: FilmFile
    reel: Reel
    screen: Screen
    script: str = ""
    shelf: Shelf | None = None

    def states(
        self,
        *,
        sampling: Callbacks,
        decoding: Callbacks,
        absorbing: Callbacks | None = None,
        see: Callable[[Tensor], object] = lambda frames: None,
    ) -> Iterator[State]:
        """The state after each chunk, the film being written meanwhile. When they end it is whole.

        `absorbing` is told of memories that are made again, `decoding` asked only while this thread waits.
        `see` is shown decoded frames, bytes [n, H, W, 3], in a thread. Raises what sampling, decoding and
        writing raise; then what is finished is in the file and in the store.
        """
        outline, story = self.outline, self.making.story
        self._list(finished=False)
        projector = Projector(
            self.screen,
            self.reel,
            story.identity.rules,
            first=outline.from_chunk,
            scenes=outline.scenes,
            lengths=outline.lengths,
            sampling=self.making.model.device,
            callbacks=Callbacks(lambda: decoding.cancelled() or sampling.cancelled(), decoding.progress),
            see=see,
        )
        work = make(
            self.making,
            shelf=self.shelf,
            callbacks=sampling,
            absorbing=absorbing,
            begin=projector.sample,
        )
        try:
            with projector, closing(work):  # at once: an error's traceback would keep it open
                for chunk in story.history:
                    projector.add(chunk)
                for state in work:
                    story = state
                    yield state
                    projector.add(state.history[-1])
                projector.finish()
        finally:
            about = stream_metadata(story, outline.from_chunk, self.file.frames)
            self.file.describe(about | {"script": self.script})
        self._list(finished=True)

    def _list(self, *, finished: bool) -> None:
        """Tell the store what this film is made of, so that pruning leaves it."""
        store = self.making.store
        if store is None:
            return
        chunks = [name for name in self.outline.names if name]
        texts = dict.fromkeys(piece.text.content for piece in self.making.pieces)
        keys = {
            "chunks": tuple(chunks),
            "embeddings": tuple(texts),
            "segments": tuple(filter(None, self.reel.keys)),
        }
        film = Manifest(path=str(self.file.path), script=self.script, keys=keys, finished=finished)
        try:
            store.keep_film(film)
        except FileError as error:
            logger.warning("%s Pruning the store wouldn't know what this film needs.", error)
