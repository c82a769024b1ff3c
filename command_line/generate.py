"""`generate`: prompts to an mp4. Text encoder, transformer and VAE take turns on the device."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from ..sana_video_core.checkpoints.checkpoint import load_vae
from ..sana_video_core.config import LONGSANA_480P, STREAM_RULES
from ..sana_video_core.errors import InputError, SanaVideoError
from ..sana_video_core.files.atomic import check_place
from ..sana_video_core.files.image_file import read_image
from ..sana_video_core.files.image_reader import opened_image
from ..sana_video_core.files.noise_file import read_noise
from ..sana_video_core.files.places import same_file
from ..sana_video_core.files.video_writer import checked_fps
from ..sana_video_core.sampling.one_shot import ClipSampling, check_latents, sample_clip
from ..sana_video_core.streaming.priming import check_video_end, encode_beginning, video_end
from ..sana_video_core.streaming.state import StreamState, check_fits
from ..sana_video_core.streaming.state_file import load_state
from ..sana_video_core.streaming.stream import Sampling, extend, prime, start
from ..sana_video_core.text.prompt import Prompt
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.vae.wan_vae import WanVAE
from .console import Bar
from .models import Models, choose_models, encode_prompts, load_model
from .outputs import (
    hold_latents,
    hold_targets,
    keep_state,
    tiling_of,
    write_clip,
    write_latents,
    write_stream,
)

# files that are only read; a state may be continued in its own file
SOURCES = ("image", "video", "noise", "model", "text_encoder", "vae", "config")


def generate(options: Namespace) -> int:
    """Run `sana-video generate`. Returns the exit status."""
    _check_texts(options)
    _check_targets(options)
    _read_beginning(options)
    with ExitStack() as targets:
        hold_targets(options, targets)
        models = choose_models(options)
        model = load_model(models, options)  # on the CPU: the text encoder and the VAE use the device first
        _check_options(options, model)
        hold_latents(options, model.family, targets)
        vae = _load_vae(models) if model.family.vae.built_in else None
        try:
            if model.family.causal:
                assert vae is not None, "every block-causal family's VAE is built in"
                return _generate_stream(options, models, model, vae)
            return _generate_clip(options, models, model, vae)
        except torch.OutOfMemoryError as error:
            raise InputError(_out_of_memory(options)) from error


def _out_of_memory(options: Namespace) -> str:
    return (
        f"{options.device} ran out of memory. "
        "Try a smaller --size, --tile 32 for the VAE, --sequential for guidance, or --device cpu."
    )


def _check_texts(options: Namespace) -> None:
    for text in (*options.prompts, options.negative, options.instruction or ""):
        try:
            text.encode()
        except UnicodeEncodeError as error:  # bytes of a terminal that Python couldn't read
            raise InputError(
                f"The prompt “{text}” holds letters that this terminal doesn't send as UTF-8. Switch the "
                "terminal to UTF-8, and type it again."
            ) from error


def _check_targets(options: Namespace) -> None:
    """Refuse names that nothing can be written under, whatever the family."""
    for path, suffixes in (
        (options.out, (".mp4", ".latent")),
        (options.sheet, (".png",)),
        (options.state_out, (".safetensors",)),
    ):
        if path is None:
            continue
        check_place(path)
        if path.suffix.lower() not in suffixes:
            raise InputError(f"“{path}” has to end with {' or '.join(suffixes)}.")
        for name in SOURCES:
            source = getattr(options, name)
            if source is not None and same_file(path, source):
                option = name.replace("_", "-")
                raise InputError(f"“{path}” is what --{option} reads, and would be lost. Give another name.")
    if sum(value is not None for value in (options.image, options.video, options.state_in)) > 1:
        raise InputError("--image and --video begin a video and --state-in continues one; use one of them.")


def _read_beginning(options: Namespace) -> None:
    """Refuse what a video begins from, if it can't be read, before anything is loaded.

    In place of their paths, --state-in and --noise become what these files hold.
    """
    if options.state_in is not None:
        options.state_in = load_state(options.state_in)
    if options.noise is not None:
        options.noise = read_noise(options.noise)
    if options.image is not None:
        with opened_image(options.image, near=(1, 1)) as image:
            image.load()
    if options.video is not None:
        check_video_end(options.video, LONGSANA_480P)


def _check_options(options: Namespace, model: SanaVideo) -> None:
    """Refuse what the family cannot do, and fill in its defaults."""
    family = model.family
    if options.sampler is None and options.image and not family.causal:
        options.sampler = "euler"  # what the original animates images with
    for name in ("steps", "sampler", "cfg", "fps", "motion_score"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(family, name))
    options.fps = checked_fps(options.fps)
    grid = family.compression.grid(*_size(options, model))
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
        or len(options.prompts) > 1
    ):
        raise InputError(
            f"{family.title} makes one clip from one prompt and has no state. "
            "Streams need LongSANA (or --family longsana_480p, if this file is one)."
        )
    suffixes = (".mp4",) if family.vae.built_in else (".latent", ".mp4")
    if options.out.suffix.lower() not in suffixes:
        raise InputError(f"“{options.out}” has to end with {' or '.join(suffixes)}.")
    if not family.causal:
        family.compression.check_clip(grid, family.compression.latent_frames(options.frames))
    if options.image and not family.vae.built_in:
        raise InputError(
            f"The VAE of {family.title} is ComfyUI's, so an image cannot be encoded here. Use it in ComfyUI."
        )


def _size(options: Namespace, model: SanaVideo) -> tuple[int, int]:
    """Height and width in pixels."""
    return options.size[::-1] if options.size else (model.family.height, model.family.width)


def _load_vae(models: Models) -> WanVAE:
    """The VAE, on the CPU. It is loaded before the work, so that a wrong file is refused early."""
    if models.vae is None:
        raise InputError(
            "--vae is missing. Give the Wan 2.1 VAE (wan_2.1_vae.safetensors or Wan2.1_VAE.pth)."
        )
    return load_vae(models.vae, dtype=torch.float32 if models.device.type == "cpu" else models.dtype)


def _beginning(options: Namespace, models: Models, model: SanaVideo, vae: WanVAE | None) -> Tensor | None:
    """--image or --video as model-space latents [1, C, F, H, W]; None without them."""
    height, width = _size(options, model)
    family = model.family
    if options.image is not None:
        pixels = read_image(options.image, width=width, height=height)
    elif options.video is not None:
        pixels = video_end(options.video, family, width=width, height=height)
    else:
        return None
    assert vae is not None, "families without a VAE here refuse pictures earlier"
    vae.to(models.device)
    encode = partial(vae.encode, tiling=tiling_of(options))
    latents = encode_beginning(encode, pixels.to(models.device), family)
    vae.to("cpu")  # the transformer has the device to itself
    return latents


def _saved_or_empty_state(options: Namespace, model: SanaVideo) -> StreamState:
    if options.state_in is None:
        height, width = _size(options, model)
        return start(model, height=height, width=width, window=options.window or None)
    state = options.state_in
    check_fits(state, model)
    if options.size:
        check_fits(state, model, height=options.size[1], width=options.size[0])
    if options.window is not None and (options.window or None) != state.identity.window:
        raise InputError(
            f"This state was started with {state.identity.window or 'no'} --window, but {options.window} was "
            "given. A stream keeps its window: leave out --window, or start a new one."
        )
    return state


def _generate_stream(options: Namespace, models: Models, model: SanaVideo, vae: WanVAE) -> int:
    sampling = Sampling(
        seed=options.seed,
        steps=options.steps,
        sampler=options.sampler,
        on_prompt_change=options.on_prompt_change,
        rule=options.rule or STREAM_RULES[0],
    )
    state = _saved_or_empty_state(options, model)
    model.family.chunks.following(state.position, options.chunks)
    prompts = encode_prompts(models, options, options.prompts)
    beginning = _beginning(options, models, model, vae)
    model.to(models.device)
    from_chunk = len(state.history)
    if beginning is not None:
        state = prime(model, state, prompts[0], beginning)
    made, stopped = len(state.history), None
    try:
        for newer in _shots(options, model, state, prompts, sampling):
            state = newer
            if options.state_out is not None:
                keep_state(options, state)  # after every chunk: a crash costs one chunk
    except (KeyboardInterrupt, SanaVideoError, torch.OutOfMemoryError) as error:
        if len(state.history) == made:
            raise
        stopped = error
        words = _out_of_memory(options) if isinstance(error, torch.OutOfMemoryError) else error or "Stopped."
        print(f"{words} Finished and written: {len(state.history) - made} of the chunks.", file=sys.stderr)
    model.to("meta")  # the VAE has the device to itself
    write_stream(options, vae.to(models.device), state, from_chunk)
    return 0 if stopped is None else 130 if isinstance(stopped, KeyboardInterrupt) else 1


def _shots(
    options: Namespace, model: SanaVideo, state: StreamState, prompts: list[Prompt], sampling: Sampling
) -> Iterator[StreamState]:
    """The state after every chunk of every shot."""
    for number, prompt in enumerate(prompts):
        with Bar(f"shot {number + 1}/{len(prompts)}") as bar:
            for newer in extend(
                model, state, prompt, sampling, chunks=options.chunks, callbacks=bar.callbacks()
            ):
                state = newer
                yield state


def _generate_clip(options: Namespace, models: Models, model: SanaVideo, vae: WanVAE | None) -> int:
    sampling = ClipSampling(
        seed=options.seed,
        steps=options.steps,
        cfg=options.cfg,
        sampler=options.sampler,
        guidance="sequential" if options.sequential else "batched",
    )
    compression = model.family.compression
    grid, frames = compression.grid(*_size(options, model)), compression.latent_frames(options.frames)
    check_latents("The noise", options.noise, (1, model.config.channels, frames, *grid))
    positive, *negative = encode_prompts(models, options, options.prompts, negative=options.cfg > 1)
    image = _beginning(options, models, model, vae)
    model.to(models.device)
    with Bar("clip") as bar, torch.no_grad():
        latents = sample_clip(
            model,
            model.prepare_text(positive.embeddings, positive.mask),
            model.prepare_text(negative[0].embeddings, negative[0].mask) if negative else None,
            grid,
            frames,
            sampling,
            image=image,
            noise=options.noise,
            callbacks=bar.callbacks(),
        )
    model.to("meta")  # the VAE has the device to itself
    if vae is not None:
        write_clip(options, vae.to(models.device), latents)
    else:
        write_latents(options, latents)
    return 0
