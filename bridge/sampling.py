"""What Block Sampler and Prime do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import accumulate
from typing import Any

import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ..sana_video_core.callbacks import Callbacks, Progress
from ..sana_video_core.config import Family
from ..sana_video_core.errors import InputError
from ..sana_video_core.films.making import Making, Request, make, plan_making
from ..sana_video_core.films.memories import StoreShelf
from ..sana_video_core.streaming.priming import encode_beginning, image_rows, images_end, video_end
from ..sana_video_core.streaming.rebuild import MemoryCache, rebuild
from ..sana_video_core.streaming.resume import InterruptedRun
from ..sana_video_core.streaming.state import State, Story, StreamState
from ..sana_video_core.streaming.stream import (
    Sampling,
    check_prime,
    plan_extension,
    prime,
    run_extension,
)
from ..sana_video_core.vae.statistics import to_vae_space
from .chunk_store import Named, store_for
from .devices import device_of, intermediate_device
from .live import stream_preview
from .progress import callbacks, interrupted
from .stream_model import HostedModel
from .text_encoders import prompt_of
from .vaes import check_vae, encoder_of
from .words import say, say_progress

INTERRUPTED = InterruptedRun()
MEMORIES = MemoryCache()  # of light states that were continued


def extend_with(
    patcher: Any, positive: Any, state: State, chunks: int, *, store: bool = False, **options: Any
) -> State:
    """The state after `chunks` more chunks, sampled as the `options` of Sampling say.

    Whatever cannot work raises before anything is loaded. With `store`, what the store has isn't made again.
    """
    model, prompt, sampling = HostedModel(patcher), prompt_of(positive), Sampling(**options)
    model.family.chunks.check_count(chunks)
    model.warn_of_step_caches()
    request = Request(prompt=prompt, sampling=sampling, chunks=chunks)
    if store:
        plan_extension(model, state, prompt, sampling, chunks=chunks)
        with store_for(model) as named:
            if named is not None:
                return _from_store(model, state, request, named)
    return _sampled(model, state, request)


def _from_store(model: HostedModel, state: State, request: Request, named: Named) -> State:
    """The state after a request: its chunks from the store, or sampled and kept there."""
    newest, identity, patcher = state, state.identity, model.patcher
    making = plan_making(model, state.to("cpu"), [request], namer=named.namer, store=named.store)
    if making.missing < request.chunks:
        say(f"{request.chunks - making.missing} of {request.chunks} chunks are from the store.")
    begin = cache(partial(model.load, identity.batch, identity.grid))  # asked for before every call
    shelf = StoreShelf(MEMORIES, named.store)
    with device_of(patcher), stream_preview(patcher, model.family) as preview:
        work = _callbacks(model.family, making, preview.progress)
        for newest in make(making, shelf=shelf, callbacks=work, absorbing=absorbing(), begin=begin):  # noqa: B007
            pass
    return newest.to(intermediate_device())


def _callbacks(family: Family, making: Making, preview: Callable[[Progress], object]) -> Callbacks:
    """What tells of a making on the node. Chunks from the store count only at the end: they take no time."""
    (request,), plan = making.requests, [piece.length for piece in making.pieces]
    position = 0 if making.pieces[0].entry == "start" else making.story.position
    work = callbacks(len(plan), len(request.sampling.sigmas), _seconds(family, position, plan), preview)

    def progress(news: Progress) -> None:
        if news.latents is not None or news.chunk == news.chunks:
            work.progress(news)

    return replace(work, progress=progress)


def absorbing() -> Callbacks:
    def progress(news: Progress) -> None:
        say_progress(f"bringing the memory back, chunk {news.chunk} of {news.chunks}")

    return Callbacks(interrupted, progress)


def _sampled(model: HostedModel, state: State, request: Request) -> State:
    """The state after a request, all of it sampled. What was interrupted goes on from there."""
    patcher, prompt, sampling = model.patcher, request.prompt, request.sampling

    def run(state: State, chunks: int) -> Iterator[StreamState]:
        extension = plan_extension(model, state, prompt, sampling, chunks=chunks)
        extension = replace(extension, state=whole_state(patcher, model, extension.state))
        with device_of(patcher), stream_preview(patcher, model.family) as preview:
            ends = _seconds(model.family, extension.state.position, extension.plan)
            work = callbacks(chunks, len(sampling.sigmas), ends, preview.progress)
            model.load(state.identity.batch, state.identity.grid)
            yield from run_extension(model, extension, callbacks=work, device=intermediate_device())

    known = (prompt.digest, sampling, patcher.patches_uuid, model.fingerprint)
    return INTERRUPTED.run_or_resume(known, state, request.chunks, run)


def _seconds(family: Family, position: int, plan: Iterable[int]) -> list[float]:
    """How many seconds chunks after this position will have added by the end of each."""
    counts = [family.compression.frames(position + latents) for latents in accumulate(plan)]
    return [(frames - family.compression.frames(position)) / family.fps for frames in counts]


def whole_state(patcher: Any, model: HostedModel, state: State) -> StreamState:
    """A state that can be continued: what has no memory gets it by absorbing its chunks again."""
    if isinstance(state, StreamState):
        return state
    with device_of(patcher):
        model.load(state.identity.batch, state.identity.grid)
        work = callbacks(len(state.chunks), 1, what="bringing the memory back, ")
        device = intermediate_device()
        return rebuild(model, state, shelf=MEMORIES, callbacks=work, device=device)


def latents_since(before: Story, after: Story) -> dict[str, Tensor]:
    """The new chunks of `after`, as a LATENT [B, C, F, H, W] in VAE space."""
    vae, new = after.identity.rules.vae, after.history[len(before.history) :]
    return {"samples": torch.cat([to_vae_space(chunk.latents, vae) for chunk in new], dim=2)}


def prime_with(
    patcher: Any, vae: Any, positive: Any, state: State, image: Tensor | None, video: Any
) -> StreamState:
    """The stream that begins with an image or the end of a video."""
    model, prompt, identity = HostedModel(patcher), prompt_of(positive), state.identity
    latents = beginning_with(model, vae, state, image, video)
    if latents is None:
        raise InputError("Connect either an image or a video: one of them is what the stream begins with.")
    with device_of(patcher):
        model.load(identity.batch, identity.grid)
        work = callbacks(len(model.family.chunks.plan(latents.shape[2])), 1)
        return prime(model, state, prompt, latents, callbacks=work, device=intermediate_device())


def beginning_with(
    model: HostedModel, vae: Any, state: State, image: Tensor | None, video: Any
) -> Tensor | None:
    """An image, or the end of a video, as latents [1 or B, C, F, H, W] in model space; None without them."""
    if image is None and video is None:
        return None
    encoder, identity = encoder_of(vae), state.identity
    if image is not None and video is not None:
        raise InputError("Connect either an image or a video: one of them is what the stream begins with.")
    check_vae(encoder, model.family)
    check_prime(model, state)
    height, width = model.family.compression.pixels(identity.grid)
    if image is not None:
        pixels = image_rows(image, identity.batch, width=width, height=height)
    else:
        pixels = _end_of(video, model, width, height)
    with device_of(encoder.patcher):
        encoder.load_for(len(pixels), identity.grid)
        return encode_beginning(encoder.encode, pixels, model.family)


def _end_of(video: Any, model: HostedModel, width: int, height: int) -> Tensor:
    """The end of a VIDEO [1, 3, n, H, W], as much as a scene has room for.

    It is read from the video's own file: a copy that ComfyUI makes has lost its colour tags and its shape.
    """
    size = {"width": width, "height": height}
    if isinstance(video, InputImpl.VideoFromComponents):
        made = video.get_components()
        return images_end(made.images, made.frame_rate, model.family, **size)
    start, duration = video.get_active_trim_window()
    source = video.get_stream_source()
    return video_end(source, model.family, start=start, duration=duration, **size)
