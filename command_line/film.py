"""`film`: a script to an mp4, over the store: nothing is made twice, and any end can be gone on from."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..sana_video_core.errors import InputError
from ..sana_video_core.files.audio import read_audio
from ..sana_video_core.files.claims import claim
from ..sana_video_core.files.film_file import FilmFile
from ..sana_video_core.films.contents import content_of, transformer_content
from ..sana_video_core.films.film import Film, Outline, outline_of, requests_of
from ..sana_video_core.films.layout import IN_OUTPUT
from ..sana_video_core.films.making import Making, plan_making
from ..sana_video_core.films.memories import StoreShelf
from ..sana_video_core.films.naming import Namer
from ..sana_video_core.films.plan import Plan, describe
from ..sana_video_core.films.projector import Screen
from ..sana_video_core.films.reel import Look, Reel, look_of
from ..sana_video_core.films.store import Store
from ..sana_video_core.shapes import checked_fps
from ..sana_video_core.streaming.rebuild import MemoryCache, rebuild
from ..sana_video_core.streaming.state import State
from ..sana_video_core.streaming.stream import Sampling, primed
from ..sana_video_core.streaming.stream_model import check_causal
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.vae.decoders import VideoDecoder
from ..sana_video_core.vae.reach import decoder_reach
from .beginning import beginning_of, begun_or_empty, read_beginning
from .console import FilmBar
from .film_script import parsed
from .generate import check_texts, out_of_memory
from .kept import Kept
from .loras import change_by_loras, find_loras
from .models import Models, choose_models, load_decoder, load_model, prompts_through
from .outputs import check_targets, keep_state, tiling_of
from .preview import SamplingPreview, film_preview, held
from .sheet import write_sheet
from .turns import Turns


def film(options: Namespace, text: str) -> int:
    """Run `sana-video film` with a script that was read. Returns the exit status."""
    _fill_in(options)
    check_texts(options.instruction or "")
    tiling_of(options)
    find_loras(options)
    check_targets(options)
    read_beginning(options)
    if options.state_in:  # its scene may have no room
        parsed(options, text, begins_at=options.state_in.position)
    options.audio = options.audio and read_audio(options.audio)
    with ExitStack() as targets:
        for path in (options.out, options.sheet, options.state_out):
            if path is not None:
                targets.enter_context(claim(path))
        targets.enter_context(held(options))
        models = choose_models(options)
        store = Store(options.store or options.out.absolute().parent / IN_OUTPUT)
        targets.enter_context(store.held())
        model = load_model(models, options)
        check_causal(model)
        assert isinstance(model, SanaVideo), "no other network is block-causal"
        _take_rules(options, model)
        change_by_loras(model, options)
        studio = _Studio(options, models, model, load_decoder(models, options, model.family), store)
        try:
            return studio.film(text)
        except torch.OutOfMemoryError as error:
            raise InputError(out_of_memory(options)) from error


def _fill_in(options: Namespace) -> None:
    """A name for the film, and what `generate` has and a film hasn't."""
    options.noise = None
    if options.out is None:
        options.out = Path(options.script.with_suffix(".mp4").name)
    if options.out.suffix.lower() != ".mp4":
        raise InputError(f"“{options.out}” has to end with .mp4.")


def _take_rules(options: Namespace, model: SanaVideo) -> None:
    """The family's defaults. Raises InputError for a family that has no streams."""
    for name in ("steps", "sampler", "fps", "motion_score"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(model.family, name))
    options.fps = checked_fps(options.fps)
    begun_or_empty(options, model)


class _Studio:
    """The models of one film, and how it is made with them."""

    def __init__(
        self, options: Namespace, models: Models, model: SanaVideo, vae: VideoDecoder, store: Store
    ) -> None:
        self.options, self.models, self.model, self.vae, self.store = options, models, model, vae, store
        self.shelf = StoreShelf(MemoryCache(), store)

    def film(self, text: str) -> int:
        """Make it. Returns the exit status."""
        story = begun_or_empty(self.options, self.model)
        beginning = beginning_of(self.options, self.models, self.model, self.vae)
        plan = self._plan(text, story, beginning)
        making = self._making(plan, story, beginning)
        outline = outline_of(making, from_chunk=len(story.history))
        state = self._made(making, outline, text)
        seconds = float(sum(outline.frames[outline.from_chunk :]) / self.options.fps)
        print(
            f"wrote {self.options.out}: {plan_words(making)}, "
            f"{sum(outline.frames[outline.from_chunk :])} frames, {seconds:.1f} s"
        )
        self._keep(state)
        return 0

    def _plan(self, text: str, story: State, beginning: Tensor | None) -> Plan:
        options = self.options
        before = story.position if beginning is None else beginning.shape[2]
        plan = parsed(options, text, family=self.model.family, begins_at=before)
        print("\n".join(describe(plan)))
        return plan

    def _making(self, plan: Plan, story: State, beginning: Tensor | None) -> Making:
        """Every chunk of the film, with what the store has of it."""
        options, texts = self.options, list(dict.fromkeys(shot.text for shot in plan.shots))
        prompts = dict(zip(texts, prompts_through(self.store, self.models, options, texts), strict=True))
        sampling = Sampling(steps=options.steps, sampler=options.sampler, rule=options.rule)
        self.model.to(self.models.device)  # last: text encoder and VAE have used it
        if beginning is not None:
            story = primed(self.model, story, prompts[plan.shots[0].text], beginning)
        content = transformer_content(self.models.transformer, self.model.config, self.store)
        return plan_making(
            self.model,
            story,
            requests_of(plan, prompts, sampling),
            namer=Namer(content, self.model.maker),
            store=self.store,
            resume=options.resume,
            anywhere=options.anywhere,
        )

    def _look(self) -> Look:
        tile, content = self.options.tile, content_of(self.models.vae, self.store)
        how = {"fps": self.options.fps, "codec": self.options.codec}
        how |= {} if tile is None else {"tiling": f"tiles of {tile}"}
        return look_of(self.vae, self.models.vae_device, content, **how)

    def _screen(self, making: Making) -> Screen:
        turns = Turns(self.models, self.model, self.vae, making.story.identity)
        return Screen(
            decoder=self.vae,
            device=self.models.vae_device,
            overlap=partial(turns.overlap, self.options.overlap),
            tiling=tiling_of(self.options),
            reach=decoder_reach(self.vae),
            to_sample=turns.to_sample,
            to_decode=turns.to_decode,
        )

    def _made(self, making: Making, outline: Outline, text: str) -> State:
        """The state at the end of the film, which is in its file then."""
        options, state, look = self.options, making.story, self._look()
        watch = SamplingPreview(options, self.model.family, self.vae, self.models.device)
        with (
            Kept(options.out, making, resume=options.resume) as kept,
            FilmFile(options.out, fps=options.fps, audio=options.audio) as kept.file,
            FilmBar(len(making.pieces)) as bar,
            _Seen(options) as seen,
            watch.shots(1, seen.begun) as see,
        ):
            reel = Reel(
                kept.file,
                outline.parts,
                codec=options.codec,
                look=look,
                store=self.store,
                tiling=lambda: look.tiling,
                resume=options.resume,
            )
            made = Film(
                making=making,
                outline=outline,
                file=kept.file,
                reel=reel,
                screen=self._screen(making),
                script=text,
                shelf=self.shelf,
            )
            work, decoding = bar.sampling(0, partial(see, 0)), bar.decoding(outline.from_chunk)
            for state in made.states(sampling=work, decoding=decoding, see=seen.frames):  # noqa: B007
                kept.chunks += 1
        return state

    def _keep(self, state: State) -> None:
        """What was asked for besides the film."""
        options = self.options
        if options.sheet is not None:
            write_sheet(options.out, options.sheet)
            print(f"wrote {options.sheet}")
        if options.state_out is not None:
            if not options.light:
                state = rebuild(self.model, state, shelf=self.shelf)
            keep_state(options, state.to("cpu"))
            print(f"wrote {options.state_out}")


def plan_words(making: Making) -> str:
    """How many chunks were made now, and how many were there."""
    chunks, missing = len(making.pieces), making.missing
    if missing in (0, chunks):
        return f"{chunks} chunk{'s' * (chunks > 1)}" + ("" if missing else " from the store")
    return f"{chunks} chunks, {chunks - missing} of them from the store"


class _Seen:
    """Decoded frames in the file --preview, if there is one."""

    def __init__(self, options: Namespace) -> None:
        self._preview, self._came = film_preview(options), False

    def frames(self, frames: Tensor) -> None:
        self._came = True
        if self._preview is not None:
            self._preview.frames(frames)

    def begun(self) -> bool:
        return self._came

    def __enter__(self) -> _Seen:
        return self

    def __exit__(self, *error: object) -> None:
        if self._preview is not None:
            self._preview.__exit__(*error)
