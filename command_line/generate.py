"""`generate`: prompts to an mp4. Text encoder, transformer and VAE take turns on the device."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch

from ..sana_video_core.config import STREAM_RULES, Family
from ..sana_video_core.errors import InputError, SanaVideoError
from ..sana_video_core.sampling.one_shot import ClipSampling, check_latents, sample_clip
from ..sana_video_core.shapes import checked_fps
from ..sana_video_core.streaming.pipeline import Pipeline
from ..sana_video_core.streaming.rebuild import rebuild
from ..sana_video_core.streaming.report import stream_metadata
from ..sana_video_core.streaming.state import LightState, State, StreamState
from ..sana_video_core.streaming.stream import Sampling, extend, prime
from ..sana_video_core.text.prompt import Prompt
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.transformer.network import VideoNetwork
from ..sana_video_core.transformer.pass_graphs import graphs_where_they_pay
from ..sana_video_core.vae.decoders import VideoDecoder
from .beginning import beginning_of, begun_or_empty, read_beginning, size_of
from .console import Bar, FilmBar
from .loras import change_by_loras, find_loras
from .models import Models, choose_models, encode_prompts, load_decoder, load_model
from .outputs import (
    LATENT,
    Film,
    check_targets,
    hold_targets,
    keep_state,
    tiling_of,
    write_clip,
    write_latents,
)
from .preview import SamplingPreview, held


def generate(options: Namespace) -> int:
    """Run `sana-video generate`. Returns the exit status."""
    check_texts(*options.prompts, options.negative, options.instruction or "")
    find_loras(options)
    check_targets(options)
    read_beginning(options)
    with ExitStack() as targets:
        hold_targets(options, targets)
        targets.enter_context(held(options))
        models = choose_models(options)
        model = load_model(models, options)  # on the CPU: the text encoder and the VAE use the device first
        _check_options(options, model)
        change_by_loras(model, options)
        shown = options.out.suffix.lower() != LATENT or options.image or options.preview
        vae = load_decoder(models, options, model.family) if shown else None
        try:
            if model.family.causal:
                assert isinstance(model, SanaVideo), "no other network is block-causal"
                assert vae is not None, "streams end in frames"
                return _generate_stream(options, models, model, vae)
            return _generate_clip(options, models, model, vae)
        except torch.OutOfMemoryError as error:
            raise InputError(out_of_memory(options)) from error


def out_of_memory(options: Namespace) -> str:
    """What to do about a device without room."""
    return (
        f"{options.device} ran out of memory. "
        "Try a smaller --size, --tile 32 for the VAE (720p: 16), --overlap off, --sequential for guidance, "
        "or --device cpu."
    )


def check_texts(*texts: str) -> None:
    """Refuse what can't be encoded."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes of a terminal that Python couldn't read
            raise InputError(
                f"The prompt “{text}” holds letters that this terminal doesn't send as UTF-8. Switch the "
                "terminal to UTF-8, and type it again."
            ) from error


def _check_options(options: Namespace, model: VideoNetwork[Any]) -> None:
    """Refuse what the family cannot do, and fill in its defaults."""
    family = model.family
    _check_few_step(options, family)
    if options.sampler is None and options.image and not family.causal:
        options.sampler = "euler"  # what the original animates images with
    for name in ("steps", "sampler", "cfg", "fps", "motion_score", "frames"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(family, name))
    options.fps = checked_fps(options.fps)
    grid = family.compression.grid(*size_of(options, model))
    if family.causal and options.cfg != 1:
        raise InputError(f"{family.title} has no guidance: leave out --cfg.")
    if family.causal and options.noise is not None:
        raise InputError(
            f"{family.title} draws fresh noise at every step, all of it from --seed: leave out --noise."
        )
    if not family.causal and (
        options.video
        or options.state_in
        or options.state_out
        or options.window
        or options.rule
        or options.chunks > 1
        or len(options.prompts) > 1
    ):
        raise InputError(
            f"{family.title} makes one clip from one prompt and has no state. "
            "Streams need LongSANA (or --family longsana_480p, if this file is one)."
        )
    if options.out.suffix.lower() == LATENT and (family.causal or options.sheet):
        words = "a stream is written as its frames" if family.causal else "--sheet shows frames"
        raise InputError(f"“{options.out}” has to end with .mp4: {words}.")
    if not family.causal:
        family.compression.check_clip(grid, family.compression.latent_frames(options.frames))


def _check_few_step(options: Namespace, family: Family) -> None:
    """Refuse what a clip of few steps cannot have, before another sampler is chosen for it."""
    sampler = options.sampler or family.sampler
    if family.causal or sampler != "few_step":
        return
    for option, given in (("--image", options.image), ("--negative", options.negative)):
        if given:
            raise InputError(
                f"{family.title} makes clips from a prompt alone: leave out {option}, or use the model of 50 "
                "steps, which can do more."
            )


def _generate_stream(options: Namespace, models: Models, model: SanaVideo, vae: VideoDecoder) -> int:
    sampling = Sampling(
        seed=options.seed,
        steps=options.steps,
        sampler=options.sampler,
        on_prompt_change=options.on_prompt_change,
        rule=options.rule or STREAM_RULES[0],
    )
    state = begun_or_empty(options, model)
    model.family.chunks.following(state.position, options.chunks)
    prompts = encode_prompts(models, options, options.prompts)
    beginning = beginning_of(options, models, model, vae)
    preview = SamplingPreview(options, model.family, vae, models.device)
    _give_back_memory(models)
    model.to(models.device)
    model.graphs = graphs_where_they_pay(model.device)
    from_chunk = len(state.history)
    if isinstance(state, LightState):
        with Bar("bringing back the memory") as bar:
            state = rebuild(model, state, callbacks=bar.callbacks(), device=models.device)
    if beginning is not None:
        state = prime(model, state, prompts[0], beginning)
    return _film(options, models, model, vae, _Shots(state, prompts, sampling, from_chunk, preview))


class _Shots(NamedTuple):
    """A checked request."""

    state: State  # where it begins
    prompts: list[Prompt]
    sampling: Sampling
    from_chunk: int  # the first one that the film shows
    preview: SamplingPreview

    def frames(self, chunks: int) -> int:
        """How many frames the film will have, with so many chunks a shot. Raises InputError without room."""
        state, rules = self.state, self.state.identity.rules
        frames, position = state.frames_from(self.from_chunk), state.position
        digest = state.history[-1].digest if position else None
        for prompt in self.prompts:
            if position and prompt.digest != digest and self.sampling.on_prompt_change == "cut":
                position = 0
            plan = rules.chunks.following(position, chunks)
            rules.chunks.check_room(position, plan)
            after = position + sum(plan)
            frames += rules.compression.frames(after) - rules.compression.frames(position)
            position, digest = after, prompt.digest
        return frames


def _give_back_memory(models: Models) -> None:
    """What the text encoder and the VAE have used: else it would seem to be in use."""
    if models.device.type == "cuda":
        torch.cuda.empty_cache()


def _film(options: Namespace, models: Models, model: SanaVideo, vae: VideoDecoder, shots: _Shots) -> int:
    """Sample, decode and write a stream. Returns the exit status."""
    state, made, stopped = shots.state, len(shots.state.history), None
    new = options.chunks * len(shots.prompts)
    with (
        Film(options, shots.frames(options.chunks)) as film,
        FilmBar(new) as bar,
        Pipeline(
            vae,
            film.write,
            sampling=models.device,
            decoding=models.vae_device,
            from_chunk=shots.from_chunk,
            total=made + new,
            overlap=options.overlap,
            tiling=tiling_of(options),
            callbacks=bar.decoding(shots.from_chunk),
        ) as pipeline,
    ):
        try:
            for newer in _sampled(options, model, shots, bar, pipeline):
                state, film.metadata = newer, partial(stream_metadata, newer, shots.from_chunk)
                if options.state_out is not None:
                    keep_state(options, state)  # after every chunk: a crash costs one chunk
                pipeline.add(state)
        except (KeyboardInterrupt, SanaVideoError, torch.OutOfMemoryError) as error:
            if len(state.history) == made or error is pipeline.error:
                raise
            stopped = error.with_traceback(None)  # which keeps the sampler's tensors alive
            words = (
                out_of_memory(options)
                if isinstance(error, torch.OutOfMemoryError)
                else str(error) or "Stopped."
            )
            chunks = len(state.history) - made
            bar.say(f"{words} Finished, and written now: {chunks} of {new} chunks.")
        model.graphs = None  # they hold activations
        model.to("meta")  # the VAE has the device to itself
        if not pipeline.overlapped:
            film.expected = state.frames_from(shots.from_chunk)
        pipeline.finish(state)
    return 0 if stopped is None else 130 if isinstance(stopped, KeyboardInterrupt) else 1


def _sampled(
    options: Namespace, model: SanaVideo, shots: _Shots, bar: FilmBar, pipeline: Pipeline
) -> Iterator[StreamState]:
    """The state after every chunk of every shot."""
    state, count = shots.state, options.chunks
    # on the GPU, states are where a decoder beside the sampler reads them; files are written from the CPU
    device = "cpu" if options.state_out is not None or options.overlap == "off" else model.device
    with shots.preview.shots(len(shots.prompts), lambda: pipeline.begun) as see:
        for number, prompt in enumerate(shots.prompts):
            work = bar.sampling(number * count, partial(see, number))
            begun = extend(model, state, prompt, shots.sampling, chunks=count, callbacks=work, device=device)
            for newer in begun:
                state = newer
                yield state


def _clip_sampling(options: Namespace, family: Family) -> ClipSampling:
    return ClipSampling(
        seed=options.seed,
        steps=options.steps,
        cfg=options.cfg,
        sampler=options.sampler,
        shift=family.shift,
        guidance="sequential" if options.sequential else "batched",
    )


def _generate_clip(
    options: Namespace, models: Models, model: VideoNetwork[Any], vae: VideoDecoder | None
) -> int:
    sampling = _clip_sampling(options, model.family)
    compression = model.family.compression
    grid, frames = compression.grid(*size_of(options, model)), compression.latent_frames(options.frames)
    check_latents("The noise", options.noise, (1, model.config.channels, frames, *grid))
    positive, *negative = encode_prompts(models, options, options.prompts, negative=options.cfg > 1)
    image = beginning_of(options, models, model, vae)
    preview = SamplingPreview(options, model.family, vae, models.device)
    model.to(models.device)
    with Bar("clip") as bar, preview.clip() as see, torch.no_grad():
        latents = sample_clip(
            model,
            model.prepare_text(positive.embeddings, positive.mask),
            model.prepare_text(negative[0].embeddings, negative[0].mask) if negative else None,
            grid,
            frames,
            sampling,
            image=image,
            noise=options.noise,
            callbacks=bar.callbacks(see),
        )
    model.to("meta")  # the VAE has the device to itself
    if options.out.suffix.lower() == LATENT:
        write_latents(options, latents, model.family.vae)
    else:
        assert vae is not None, "what is shown has a VAE"
        write_clip(options, vae.to(models.vae_device), latents.to(models.vae_device))
    return 0
