"""What the film node does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from comfy.cli_args import args
from torch import Tensor

from ..sana_video_core.callbacks import Callbacks, Progress
from ..sana_video_core.config import (
    CODECS,
    LONGSANA_480P,
    OVERLAPS,
    STREAM_RULES,
    STREAM_SAMPLERS,
    VAE_DEVICES,
)
from ..sana_video_core.errors import InputError
from ..sana_video_core.files.film_file import FilmFile
from ..sana_video_core.films.contents import content_of
from ..sana_video_core.films.film import Film, outline_of, requests_of
from ..sana_video_core.films.keys import tensors_digest
from ..sana_video_core.films.making import Making, plan_making
from ..sana_video_core.films.memories import StoreShelf
from ..sana_video_core.films.plan import Plan, describe
from ..sana_video_core.films.reel import WHOLE, Look, Reel, look_of
from ..sana_video_core.films.script import parse_script
from ..sana_video_core.shapes import checked_fps
from ..sana_video_core.streaming.state import State, check_fits
from ..sana_video_core.streaming.stream import Sampling, check_prime, primed, start
from .chunk_store import Named, store_for
from .decoding import sound_of
from .devices import device_of, intermediate_device
from .live import film_preview, stream_preview
from .progress import callbacks, interrupted
from .prompts import prompts_through
from .sampling import MEMORIES, absorbing, beginning_with
from .screens import screen_of
from .stream_model import HostedModel
from .vaes import HostedDecoder, check_vae, file_of, vae_of
from .words import say

IN_TILES = "tiles"  # what a decoder falls back to when memory is short


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What an artist asks for, besides models and script."""

    width: int
    height: int
    fps: float
    resume: bool = True
    image: Tensor | None = None
    video: Any = None
    state: State | None = None
    audio: Mapping[str, Any] | None = None
    motion_score: int = LONGSANA_480P.motion_score
    instruction: bool = True
    steps: int = LONGSANA_480P.steps
    sampler: str = STREAM_SAMPLERS[0]
    rule: str = STREAM_RULES[0]
    overlap: str = OVERLAPS[0]
    vae_device: str = VAE_DEVICES[0]
    codec: str = CODECS[0]
    any_machine: bool = False
    drawing: Mapping[str, str] = field(default_factory=dict)

    @property
    def sampling(self) -> Sampling:
        """Raises InputError for steps, a sampler or a rule that cannot be."""
        return Sampling(steps=self.steps, sampler=self.sampler, rule=self.rule)


def drawing_of(hidden: Any) -> dict[str, str]:
    """The workflow as ComfyUI's page finds it in a video, unless ComfyUI was started to leave it out."""
    if hidden is None or args.disable_metadata:
        return {}
    known = {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}
    return {name: json.dumps(value) for name, value in known.items() if value is not None}


def film_with(
    patcher: Any, encoder: Any, vae: Any, script: str, seconds: float, seed: int, wish: Wish, path: Path
) -> tuple[State, int]:
    """The state at the end of a film, and how many frames it has; the film is at `path` then.

    Whatever cannot work raises before anything is sampled.
    """
    model, decoder, sound = HostedModel(patcher), vae_of(vae), sound_of(wish.audio, 0)
    if sum(each is not None for each in (wish.image, wish.video, wish.state)) > 1:
        raise InputError("A film begins with an image, a video or a state: connect one of them.")
    check_vae(decoder, model.family)
    model.warn_of_step_caches()
    begun, fps, sampling = _begun(model, wish), checked_fps(wish.fps), wish.sampling
    screen = screen_of(model, decoder, vae, begun.identity, wish.overlap, wish.vae_device)
    about = {"seconds": seconds, "seed": seed, "fps": fps, "family": model.family}
    plan = parse_script(script, **about, begins_at=begun.position)
    beginning = beginning_with(model, vae, begun, wish.image, wish.video)
    if beginning is not None:
        plan = parse_script(script, **about, begins_at=beginning.shape[2])
    say("\n".join(describe(plan)))
    with store_for(model) as named:
        making = _making(model, encoder, plan, sampling, begun, beginning, wish, named)
        outline = outline_of(making, from_chunk=len(begun.history))
        with FilmFile(path, fps=fps, audio=sound, tags=wish.drawing) as file:
            reel = Reel(
                file,
                outline.parts,
                codec=wish.codec,
                look=named and _look(vae, decoder, screen.device, named, file.fps, wish.codec),
                store=named and named.store,
                tiling=lambda: IN_TILES if decoder.in_tiles else WHOLE,
                resume=wish.resume,
            )
            film = Film(
                making=making,
                outline=outline,
                file=file,
                reel=reel,
                screen=screen,
                script=script,
                shelf=StoreShelf(MEMORIES, named.store) if named else MEMORIES,
            )
            state = _made(film, model, wish.steps, float(fps))
    return state.to(intermediate_device()), file.frames


def _begun(model: HostedModel, wish: Wish) -> State:
    """The state that the film continues, or an empty one. Raises for a batch, or one of another model."""
    if wish.state is None:
        return start(model, height=wish.height, width=wish.width)
    if wish.state.identity.batch != 1:
        raise InputError(
            f"This state holds a batch of {wish.state.identity.batch} videos, and a film is one. "
            "Start a stream with batch_size 1."
        )
    check_fits(wish.state, model)
    return wish.state.to("cpu")


def _making(
    model: HostedModel,
    encoder: Any,
    plan: Plan,
    sampling: Sampling,
    begun: State,
    beginning: Tensor | None,
    wish: Wish,
    named: Named | None,
) -> Making:
    """Every chunk of the film, with what the store has of it."""
    texts = list(dict.fromkeys(shot.text for shot in plan.shots))
    how = {"motion_score": wish.motion_score, "instruction": wish.instruction}
    prompts = dict(zip(texts, prompts_through(named and named.store, encoder, texts, **how), strict=True))
    story = begun
    if beginning is not None:
        story = primed(model, check_prime(model, begun), prompts[plan.shots[0].text], beginning)
    making = plan_making(
        model,
        story,
        requests_of(plan, prompts, sampling),
        namer=named and named.namer,
        store=named and named.store,
        resume=wish.resume,
        anywhere=wish.any_machine,
    )
    if named and making.missing < len(making.pieces):
        say(f"{len(making.pieces) - making.missing} of {len(making.pieces)} chunks are from the store.")
    return making


def _look(
    vae: Any, decoder: HostedDecoder, device: torch.device, named: Named, fps: Fraction, codec: str
) -> Look | None:
    """None for a VAE that nobody knows by content: it was patched."""
    path = file_of(vae)
    if vae.patcher.patches:
        return None
    content = (
        content_of(path, named.store, _may_stop)
        if path
        else tensors_digest(vae.first_stage_model.state_dict())
    )
    return look_of(decoder.network, device, content, fps=fps, codec=codec)


def _may_stop(done: int, total: int) -> None:
    interrupted()


def _made(film: Film, model: HostedModel, steps: int, fps: float) -> State:
    """The state after the film, which is shown while it is made."""
    state, pieces, outline, frames_came = film.making.story, film.making.pieces, film.outline, False
    before = len(outline.frames) - len(pieces)
    ends = [sum(outline.frames[outline.from_chunk : before + n + 1]) / fps for n in range(len(pieces))]
    known = [number for number, piece in enumerate(pieces, 1) if piece.latents is not None]
    with ExitStack() as stack:
        latents = stack.enter_context(stream_preview(model.patcher, model.family))
        shown = stack.enter_context(film_preview(fps))
        work = callbacks(len(pieces), steps, ends, known=known)

        def see(frames: Tensor) -> None:
            nonlocal frames_came
            frames_came = True
            if shown is not None:
                shown.frames(frames)

        def progress(news: Progress) -> None:
            if frames_came:
                latents.end()
            else:
                latents.progress(news)
            work.progress(news)

        stack.enter_context(device_of(model.patcher))
        told = {"sampling": replace(work, progress=progress), "absorbing": absorbing()}
        for state in film.states(**told, decoding=Callbacks(interrupted), see=see):  # noqa: B007
            pass
    return state
