"""What Decode, Decode Stream and Empty Latent do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sana_video_core.config import FAMILIES
from ..sana_video_core.errors import InputError
from ..sana_video_core.files.atomic import move
from ..sana_video_core.files.audio import Audio
from ..sana_video_core.files.background import encoding
from ..sana_video_core.files.image_file import frame_bytes, to_images
from ..sana_video_core.files.video_writer import VideoWriter
from ..sana_video_core.shapes import Compression, LatentGrid
from ..sana_video_core.streaming.decoding import (
    Form,
    check_first_chunk,
    decode_clip,
    decode_history,
    first_chunk_of,
)
from ..sana_video_core.streaming.priming import image_rows
from ..sana_video_core.streaming.state import Story
from ..sana_video_core.vae.reach import decoder_reach
from .devices import device_of, intermediate_device
from .live import film_preview
from .progress import callbacks
from .stream_model import HostedModel
from .vaes import HostedDecoder, check_vae, encoder_of, vae_of

logger = logging.getLogger("sana_video")
FAMILY = "sana_video_family"  # in a LATENT: whose clip it is, by name
STEPS = 10  # of the progress bar in each chunk


def decode_images(vae: Any, latent: Mapping[str, Any], state: Story | None) -> Tensor:
    """Pictures [B * n, H, W, 3] in [0, 1] of a LATENT's samples [B, C, F, H, W] in VAE space."""
    decoder, latents = vae_of(vae), latent["samples"]
    spec = decoder.spec
    if state is not None:
        check_vae(decoder, state.identity.rules)
    elif made_by := FAMILIES.get(latent.get(FAMILY, "")):
        check_vae(decoder, made_by)
    if latents.is_nested or latents.ndim != 5 or latents.shape[1] != spec.channels:
        shape = "several parts" if latents.is_nested else f"shape {list(latents.shape)}"
        known = dict.fromkeys(family.vae for family in FAMILIES.values())
        vaes = ", ".join(f"{vae.name} VAE ({vae.channels})" for vae in known)
        raise InputError(
            f"Latents of {shape} were given; the connected {spec.name} VAE decodes [batch, {spec.channels}, "
            f"latent frames, rows, columns]. Each model has its own VAE (and channels): {vaes}."
        )
    with device_of(decoder.patcher):
        decoder.load_for(len(latents), LatentGrid(*latents.shape[-2:]))
        if state is None:
            work = callbacks(1, latents.shape[2])
            pieces = decode_clip(decoder, latents, spec, callbacks=work, device=decoder.device)
            frames = Compression(spec.time_stride, spec.space_stride, patch=1).frames(latents.shape[2])
        else:
            first = first_chunk_of(state, latents)
            pieces, frames = _history(decoder, state, first), state.frames_from(first)
        return to_images(pieces, frames).to(intermediate_device())


def _history(
    decoder: HostedDecoder, state: Story, from_chunk: int, form: Form | None = None
) -> Iterator[Tensor]:
    work = callbacks(len(state.history), STEPS)
    return decode_history(
        decoder,
        state,
        from_chunk=from_chunk,
        form=form,
        callbacks=work,
        device=decoder.device,
        reach=decoder_reach(decoder.network),
    )


def decode_to_file(
    vae: Any,
    state: Story,
    path: Path,
    rescue: Callable[[], AbstractContextManager[Path]],
    *,
    row: int,
    from_chunk: int,
    fps: float,
    codec: str,
    audio: Mapping[str, Any] | None = None,
) -> Path:
    """One row of a stream as a video at `path`. If stopped, the finished part moves to `rescue()`.

    `audio` is a host's: see sound_of.
    """
    decoder, identity = vae_of(vae), state.identity
    check_vae(decoder, identity.rules)
    if row >= identity.batch:
        raise InputError(
            f"Row {row} was asked for, but this stream has a batch of {identity.batch} (counted from 0)."
        )
    check_first_chunk(state, from_chunk)
    sound = sound_of(audio, row)
    metadata = {
        "prompts": [c.prompt for c in state.history],
        "seeds": [c.seed for c in state.history],
        "plan": state.plan,
    }
    try:
        with (
            device_of(decoder.patcher),
            VideoWriter(path, metadata=metadata, fps=fps, codec=codec, audio=sound) as writer,
            encoding(writer) as encoder,
            film_preview(fps) as preview,
        ):
            decoder.load_for(1, identity.grid)
            for frames in _history(decoder, state.only_row(row), from_chunk, frame_bytes):
                if preview is not None:
                    preview.frames(frames)
                encoder.add(frames)
    except BaseException:  # ComfyUI's interrupt isn't an Exception
        if path.is_file():  # in the temp folder, which ComfyUI empties
            _keep(path, rescue)
        raise
    return path


def sound_of(audio: Mapping[str, Any] | None, row: int) -> Audio | None:
    """The sound of one row of a batch, from a host's {"waveform": [B, channels, samples], "sample_rate": Hz}.

    One sound alone is every row's. None, as of a silent video, stays None. Raises InputError.
    """
    if audio is None:
        return None
    waveform = audio["waveform"]
    if waveform.dim() != 3:
        raise InputError(
            f"Sound of shape {list(waveform.shape)} was given; it has to be [batch, channels, samples]. "
            "Connect what Load Audio or Get Video Components gives."
        )
    if len(waveform) != 1 and row >= len(waveform):
        raise InputError(
            f"Sound for {len(waveform)} videos was given, and row {row} was asked for (counted from 0). "
            "Give one sound, or one for each row."
        )
    return Audio(waveform[0 if len(waveform) == 1 else row], audio["sample_rate"])


def _keep(path: Path, rescue: Callable[[], AbstractContextManager[Path]]) -> None:
    """Move what was finished to the output folder. On a full disk it stays, and the first error counts."""
    try:
        with rescue() as kept:
            move(path, kept)
    except (OSError, InputError) as error:
        logger.warning("Decoding was stopped; what was finished is still in “%s” (%s).", path, error)
    else:
        logger.warning("Decoding was stopped; what was finished is kept as “%s”.", kept)


def empty_latent(
    patcher: Any, width: int, height: int, length: int, batch: int, vae: Any, image: Tensor | None
) -> dict[str, Any]:
    """A LATENT of zeros [B, C, F, H, W]; an image becomes frame 0, which a mask [1, 1, F, H, W] keeps.

    It says whose it is, and so does what ComfyUI's samplers make of it.
    """
    family = HostedModel(patcher).family
    grid, channels = family.compression.grid(height, width), family.config.channels
    frames = family.compression.latent_frames(length)
    family.compression.check_clip(grid, frames, batch)
    samples = torch.zeros(batch, channels, frames, *grid)
    if image is None:
        return {"samples": samples.to(intermediate_device()), FAMILY: family.name}
    if vae is None:
        raise InputError(
            f"An image needs a VAE: connect Load SANA-Video VAE with the {family.vae.name} VAE, "
            f"{family.vae.files}."
        )
    encoder = encoder_of(vae)
    check_vae(encoder, family)
    pixels = image_rows(image, batch, width=width, height=height)
    with device_of(encoder.patcher):
        encoder.load_for(len(pixels), grid)
        samples[:, :, :1] = encoder.encode(pixels).to(samples)
    mask = torch.ones(1, 1, samples.shape[2], *grid)
    mask[:, :, 0] = 0
    made = {"samples": samples.to(intermediate_device()), "noise_mask": mask.to(intermediate_device())}
    return {**made, FAMILY: family.name}
