"""`generate`: prompts to an mp4. Text, transformer and VAE are loaded one after the other, never together."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..sana_video_core.checkpoint import load_vae
from ..sana_video_core.clip import ClipSampling, sample_clip
from ..sana_video_core.decode import decode_story
from ..sana_video_core.encode import encode_beginning
from ..sana_video_core.errors import InputError, SanaVideoError
from ..sana_video_core.image_file import contact_sheet, read_image
from ..sana_video_core.model import SanaVideo
from ..sana_video_core.state import StreamState, check_fits
from ..sana_video_core.state_file import load_state, save_state
from ..sana_video_core.stream import Prompt, Sampling, extend, prime, start
from ..sana_video_core.tensor_file import write_tensors
from ..sana_video_core.vae_tiling import Tiling
from ..sana_video_core.video_file import VideoWriter
from ..sana_video_core.video_reading import read_frames
from ..sana_video_core.wan_vae import WanVAE, to_vae_space
from .console import Bar
from .models import Models, choose_models, encode_prompts, load_model

SHEET_FRAMES = 24


def generate(options: Namespace) -> int:
    """Run `sana-video generate`. Returns the exit status."""
    _check_targets(options)
    models = choose_models(options)
    model = load_model(models, options)
    _check_options(options, model)
    if model.family.causal:
        return _generate_stream(options, models, model)
    return _generate_clip(options, models, model)


def _check_targets(options: Namespace) -> None:
    """Refuse before the work what could not be written after it."""
    for path in (options.out, options.sheet, options.state_out):
        if path is not None and not path.parent.is_dir():
            raise InputError(
                f"“{path}” cannot be written: there is no folder “{path.parent}”. Create it first."
            )


def _check_options(options: Namespace, model: SanaVideo) -> None:
    """Refuse what the family cannot do, and fill in its defaults."""
    family = model.family
    if options.sampler is None and options.image and not family.causal:
        options.sampler = "euler"  # what the original animates images with
    for name in ("steps", "sampler", "cfg", "fps"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(family, name))
    family.compression.grid(*_size(options, model))
    if family.causal and options.cfg != 1:
        raise InputError(f"{family.title} has no guidance: leave --cfg away.")
    if options.image is not None and options.video is not None:
        raise InputError("--image and --video both begin a video; use one of them.")
    if not family.causal and (
        options.video or options.state_in or options.state_out or options.window or len(options.prompts) > 1
    ):
        raise InputError(
            f"{family.title} makes one clip from one prompt and has no state. Streams need LongSANA (or --family longsana_480p, "
            "if this file is one)."
        )


def _size(options: Namespace, model: SanaVideo) -> tuple[int, int]:
    """Height and width in pixels."""
    return options.size[::-1] if options.size else (model.family.height, model.family.width)


def _vae_of(options: Namespace, models: Models) -> WanVAE:
    if models.vae is None:
        raise InputError(
            "--vae is missing. Give the Wan 2.1 VAE (wan_2.1_vae.safetensors or Wan2.1_VAE.pth)."
        )
    return load_vae(
        models.vae, device=models.device, dtype=torch.float32 if models.device.type == "cpu" else models.dtype
    )


def _tiling(options: Namespace) -> Tiling | None:
    """Tiles of the size asked for, overlapping by a quarter as the published ones do (32 by 8)."""
    return None if options.tile is None else Tiling(tile=options.tile, overlap=options.tile // 4)


def _beginning(options: Namespace, models: Models, model: SanaVideo) -> Tensor:
    """--image or --video as model-space latents [1, C, F, H, W]."""
    height, width = _size(options, model)
    family = model.family
    if options.image is not None:
        pixels = read_image(options.image, width=width, height=height)
    else:
        most = family.compression.frames(family.chunks.limit)
        pixels = read_frames(options.video, fps=family.fps, last=most, width=width, height=height)
    vae = _vae_of(options, models)
    return encode_beginning(vae, pixels.to(models.device), family.compression, tiling=_tiling(options))


def _first_state(options: Namespace, models: Models, model: SanaVideo, prompt: Prompt) -> StreamState:
    """The state to continue from: a saved one, an empty one, or one primed with an image."""
    if options.state_in is not None:
        if options.image is not None or options.video is not None:
            raise InputError(
                "--image and --video begin a stream and --state-in continues one; use one of them."
            )
        state = load_state(options.state_in)
        check_fits(state, model)
        if options.size:
            check_fits(state, model, height=options.size[1], width=options.size[0])
        return state
    height, width = _size(options, model)
    state = start(model, height=height, width=width, window=options.window)
    if options.image is None and options.video is None:
        return state
    return prime(model, state, prompt, _beginning(options, models, model))


def _generate_stream(options: Namespace, models: Models, model: SanaVideo) -> int:
    prompts = encode_prompts(models, options, options.prompts)
    state = _first_state(options, models, model, prompts[0])
    old_chunks = len(state.story) if options.state_in else 0
    stopped: BaseException | None = None
    try:
        for newer in _shots(options, model, state, prompts):
            state = newer
            if options.state_out is not None:
                save_state(state, options.state_out)  # after every chunk: a crash costs one chunk
    except (KeyboardInterrupt, SanaVideoError) as error:
        if len(state.story) == old_chunks:
            raise
        stopped = error
        done = len(state.story) - old_chunks
        print(f"{error or 'Stopped.'} Finished and written: {done} of the chunks.", file=sys.stderr)
    del model  # the VAE has the device to itself
    _write_story(options, models, state, old_chunks)
    return 0 if stopped is None else 130 if isinstance(stopped, KeyboardInterrupt) else 1


def _shots(
    options: Namespace, model: SanaVideo, state: StreamState, prompts: list[Prompt]
) -> Iterator[StreamState]:
    """The state after every chunk of every shot."""
    sampling = Sampling(
        seed=options.seed,
        steps=options.steps,
        sampler=options.sampler,
        on_prompt_change=options.on_prompt_change,
    )
    for number, prompt in enumerate(prompts):
        with Bar(f"shot {number + 1}/{len(prompts)}") as bar:
            for newer in extend(model, state, prompt, sampling, chunks=options.chunks, host=bar.host()):
                state = newer
                yield state


def _write_story(options: Namespace, models: Models, state: StreamState, from_chunk: int) -> None:
    tiling = _tiling(options)
    metadata = {
        "prompts": [chunk.prompt for chunk in state.story[from_chunk:]],
        "seeds": [chunk.seed for chunk in state.story[from_chunk:]],
        "plan": state.plan,
        "from_chunk": from_chunk,
        "model": {"family": state.identity.family, "fingerprint": state.identity.fingerprint},
    }
    with Bar("decode") as bar:
        frames = decode_story(
            _vae_of(options, models), state, from_chunk=from_chunk, tiling=tiling, host=bar.host()
        )
        before = replace(state, story=state.story[:from_chunk]).frames
        _write_video(options, frames, state.frames - before, metadata)


def _generate_clip(options: Namespace, models: Models, model: SanaVideo) -> int:
    family = model.family
    if family.vae != "Wan 2.1" and options.image is not None:
        raise InputError(
            f"The VAE of {family.title} is ComfyUI's, so an image cannot be encoded here. Use it in ComfyUI."
        )
    latent_frames = family.compression.latent_frames(options.frames)
    positive, *negative = encode_prompts(models, options, options.prompts, negative=options.cfg > 1)
    image = None if options.image is None else _beginning(options, models, model)
    sampling = ClipSampling(
        seed=options.seed,
        steps=options.steps,
        cfg=options.cfg,
        sampler=options.sampler,
        guidance="sequential" if options.sequential else "batched",
    )
    with Bar("clip") as bar, torch.no_grad():
        latents = sample_clip(
            model,
            model.prepare_text(positive.embeddings, positive.mask),
            model.prepare_text(negative[0].embeddings, negative[0].mask) if negative else None,
            family.compression.grid(*_size(options, model)),
            latent_frames,
            sampling,
            image=image,
            host=bar.host(),
        )
    del model
    if family.vae != "Wan 2.1":
        return _write_latents(options, latents)
    vae = _vae_of(options, models)
    tiling = _tiling(options)
    metadata = {
        "prompts": options.prompts,
        "negative": options.negative,
        "seed": options.seed,
        "steps": options.steps,
    }
    with torch.no_grad():
        frames = vae.decode_stream([to_vae_space(latents)], tiling=tiling)
        _write_video(options, frames, options.frames, metadata)
    return 0


def _write_latents(options: Namespace, latents: Tensor) -> int:
    """720p: its VAE is ComfyUI's. The layout is that of ComfyUI's Load Latent node."""
    path = options.out.with_suffix(".latent")
    empty = torch.zeros(0)  # its presence tells Load Latent that the values are not scaled
    write_tensors(
        path,
        {"latent_tensor": latents.cpu(), "latent_format_version_0": empty},
        {"prompt": options.prompts[0]},
    )
    print(
        f"wrote {path}: latents only, because the VAE of the 720p family (LTX-2) is ComfyUI's. Load them there with Load Latent "
        "and decode them with the LTX-2 VAE."
    )
    return 0


def _write_video(options: Namespace, frames: Iterable[Tensor], total: int, metadata: dict) -> None:
    """`total` frames, in pieces [1, 3, n, H, W], to the mp4 as they come; every so many also to the contact sheet."""
    stride = -(-total // SHEET_FRAMES)
    sheet: list[tuple[str, Tensor]] = []
    with VideoWriter(options.out, fps=options.fps, metadata=metadata) as writer:
        for pixels in frames:
            for offset in range(-writer.frames % stride, pixels.shape[2], stride):
                seconds = (writer.frames + offset) / options.fps
                sheet.append((f"{seconds:.1f} s", pixels[0, :, offset].cpu()))
            writer.write(pixels)
    print(f"wrote {options.out}: {writer.frames} frames, {writer.frames / options.fps:.1f} s")
    if options.sheet is not None:
        contact_sheet(sheet, options.sheet)
        print(f"wrote {options.sheet}")
