"""What Block Sampler and Prime do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sana_video_core.errors import InputError
from ..sana_video_core.streaming.priming import encode_beginning, image_rows, video_end
from ..sana_video_core.streaming.resume import Unfinished
from ..sana_video_core.streaming.state import StreamState
from ..sana_video_core.streaming.stream import Sampling, check_prime, check_request, extend, prime
from ..sana_video_core.vae.wan_vae import to_vae_space
from .stream_model import HostedModel, device_of, host, parking_place
from .text_encoders import prompt_of
from .vaes import vae_of

UNFINISHED = Unfinished()


def extend_with(
    patcher: Any, positive: Any, state: StreamState, chunks: int, options: dict[str, Any]
) -> StreamState:
    """The state after `chunks` more chunks. Refuses what cannot work before anything is loaded."""
    model, prompt = HostedModel(patcher), prompt_of(positive)
    sampling = Sampling(**options, loras=model.loras)
    check_request(model, state, prompt, sampling, chunks=chunks)

    def go(state: StreamState, chunks: int) -> Iterator[StreamState]:
        work = host(chunks, len(sampling.sigmas), patcher)
        with device_of(patcher):
            model.load(state.identity.batch, state.identity.grid)
            yield from extend(model, state, prompt, sampling, chunks=chunks, host=work, park=parking_place())

    request = (prompt.digest, sampling, patcher.patches_uuid, model.fingerprint)
    return UNFINISHED.run(request, state, chunks, go)


def latents_since(before: StreamState, after: StreamState) -> dict[str, Tensor]:
    """The chunks that `after` has and `before` has not, as a LATENT [B, C, F, H, W] in VAE space."""
    new = after.story[len(before.story) :]
    return {"samples": torch.cat([to_vae_space(chunk.latents) for chunk in new], dim=2)}


def prime_with(
    patcher: Any, vae: Any, positive: Any, state: StreamState, image: Tensor | None, video: Any
) -> StreamState:
    """The stream with an image or the end of a video as its beginning."""
    model, prompt, encoder, own = HostedModel(patcher), prompt_of(positive), vae_of(vae), state.identity
    if (image is None) == (video is None):
        raise InputError("Connect either an image or a video: one of them is what the stream begins with.")
    check_prime(model, state)
    height, width = model.family.compression.pixels(own.grid)
    if image is not None:
        pixels = image_rows(image, own.batch, width=width, height=height)
    else:
        pixels = _end_of(video, model, width, height)
    with device_of(encoder.patcher):
        encoder.load_for(len(pixels), own.grid)
        latents = encode_beginning(encoder.encode, pixels, model.family.compression)
    with device_of(patcher):
        model.load(own.batch, own.grid)
        work = host(len(model.family.chunks.plan(latents.shape[2])), 1)
        return prime(model, state, prompt, latents, host=work, park=parking_place())


def _end_of(video: Any, model: HostedModel, width: int, height: int) -> Tensor:
    """The last frames of a VIDEO [1, 3, n, H, W] that one scene has room for, streamed from its file."""
    source = video.get_stream_source()
    trimmed = getattr(video, "get_active_trim_window", lambda: (0, 0))() != (0, 0)
    if isinstance(source, str) and not trimmed:
        return video_end(source, model.family, width=width, height=height)
    with tempfile.TemporaryDirectory() as folder:  # a part of a file, or a video that lies in memory
        path = Path(folder) / "video.mp4"
        video.save_to(str(path))
        return video_end(path, model.family, width=width, height=height)
