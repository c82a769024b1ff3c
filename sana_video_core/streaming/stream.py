"""A stream: start it, prime it, extend it by chunks. Every function takes a state and returns new ones.

Source: longlive_flow_euler_sampler.py and diffusion/longsana/pipeline of the original. It keeps a list of all
chunks, we their running sum; docs/ARCHITECTURE.md says where else we differ, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from ..callbacks import Callbacks
from ..config import PROMPT_CHANGES, STREAM_RULES, STREAM_SAMPLERS, check_choice
from ..errors import InputError, StateError
from ..sampling.schedule import few_step_sigmas
from ..text.embedding import Embedding, embedding_of
from ..text.prompt import Prompt
from ..transformer.inputs import check_text
from ..transformer.memory import check_window, memory_to
from .chunk_runner import ChunkRunner
from .rebuild import rebuild
from .state import (
    Chunk,
    Identity,
    LightState,
    State,
    Story,
    StreamState,
    check_fits,
    model_identity,
    shared_embedding,
)
from .stream_model import StreamModel, check_causal


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How chunks are denoised."""

    seed: int = 0
    steps: int = 4
    sampler: str = "few_step"
    shift: float = 8.0
    on_prompt_change: str = "recache"
    rule: str = STREAM_RULES[0]  # of few_step, see few_step_levels

    def __post_init__(self) -> None:
        check_choice("sampler", self.sampler, STREAM_SAMPLERS)
        check_choice("on_prompt_change", self.on_prompt_change, PROMPT_CHANGES)
        check_choice("rule", self.rule, STREAM_RULES)
        if self.rule != STREAM_RULES[0] and self.sampler != STREAM_SAMPLERS[0]:
            raise InputError(
                f"The rule “{self.rule}” is one of the sampler {STREAM_SAMPLERS[0]}, but the sampler is "
                f"{self.sampler}. Choose the rule “{STREAM_RULES[0]}”, or the sampler {STREAM_SAMPLERS[0]}."
            )
        _ = self.sigmas  # raises for steps or a shift that are impossible

    @property
    def sigmas(self) -> tuple[float, ...]:
        return few_step_sigmas(self.steps, self.shift, self.rule)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extension:
    """A checked request: what `run_extension` will do."""

    state: State  # where it begins; for a cut, the start of the new scene
    prompt: Prompt
    sampling: Sampling
    entry: str  # how its first chunk begins: start, same, or one of PROMPT_CHANGES
    plan: tuple[int, ...]  # latent frames of each chunk
    names: tuple[ChunkName, ...] = ()  # of each chunk, where a store gives it some


class ChunkName(NamedTuple):
    """A chunk's name in a store."""

    key: str
    anywhere: str  # without what it was computed on


def start(
    model: StreamModel, *, height: int, width: int, batch: int = 1, window: int | None = None
) -> StreamState:
    """An empty stream of `height` x `width` pixels that looks back on `window` chunks (None: on all).

    Raises InputError for a model that isn't block-causal.
    """
    check_causal(model)
    if batch < 1:
        raise InputError(f"A batch of {batch} was asked for; give at least 1.")
    check_window(None, window)
    rows, columns = model.family.compression.grid(height, width)
    identity = Identity(**model_identity(model), rows=rows, columns=columns, batch=batch, window=window)
    return StreamState(identity=identity)


def plan_extension(
    model: StreamModel,
    state: State,
    prompt: Prompt,
    sampling: Sampling,
    *,
    chunks: int = 1,
    plan: tuple[int, ...] | None = None,
) -> Extension:
    """Check and plan `chunks` more chunks, or those of the latent lengths in `plan`.

    Whatever cannot work raises InputError or StateError here, before any work. A plan from a light state
    needs its memory before it runs (rebuild), except after a cut.
    """
    check_causal(model)
    check_fits(state, model)
    entry = entry_of(state, prompt, sampling)
    if entry == "cut":
        state = state.with_cut()
    plan = model.family.chunks.following(state.position, chunks) if plan is None else plan
    model.family.chunks.check_room(state.position, plan)
    check_text(prompt.embeddings, prompt.mask, model.config.caption_channels)
    if len(prompt.embeddings) not in (1, state.identity.batch):
        raise InputError(
            f"{len(prompt.embeddings)} prompts do not fit a stream of batch {state.identity.batch}: "
            "give one, or one for each."
        )
    return Extension(state=state, prompt=prompt, sampling=sampling, entry=entry, plan=plan)


def entry_of(state: Story, prompt: Prompt, sampling: Sampling) -> str:
    """How the next chunk begins under this prompt: start, same, or one of PROMPT_CHANGES."""
    if not state.position:
        return "start"
    return "same" if state.history[-1].digest == prompt.digest else sampling.on_prompt_change


def extend(
    model: StreamModel,
    state: State,
    prompt: Prompt,
    sampling: Sampling,
    *,
    chunks: int = 1,
    plan: tuple[int, ...] | None = None,
    callbacks: Callbacks | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[StreamState]:
    """Plan and run an extension. Whatever cannot work raises at the call, not at the first chunk."""
    extension = plan_extension(model, state, prompt, sampling, chunks=chunks, plan=plan)
    return run_extension(model, extension, callbacks=callbacks, device=device)


def run_extension(
    model: StreamModel,
    extension: Extension,
    *,
    callbacks: Callbacks | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[StreamState]:
    """The state after each chunk. States are kept on `device`, wherever the model computes.

    A chunk that is cancelled, fails, or has NaN or Inf raises (ChunkError names chunk and step); the states
    before it stay good.
    """
    state = extension.state
    text = shared_embedding(state, embedding_of(extension.prompt, device))
    assert isinstance(state, StreamState), "whoever planned from a light state makes it whole"
    runner = ChunkRunner(
        model,
        _prepare(model, text),
        callbacks or Callbacks(),
        chunks=len(extension.plan),
        calls_per_chunk=len(extension.sampling.sigmas),
        device=device,
    )
    return _chunks(runner, state, extension, text)


def _chunks(
    runner: ChunkRunner, state: StreamState, extension: Extension, text: Embedding
) -> Iterator[StreamState]:
    prompt, sampling = extension.prompt, extension.sampling
    maker, entry = runner.model.maker, "start" if extension.entry == "cut" else extension.entry
    if entry == "recache":
        state = runner.recache(state)
    memory = memory_to(state.memory, runner.model.device)  # stays on the model's device from chunk to chunk
    for length, name in zip(extension.plan, chain(extension.names, repeat(None)), strict=False):
        runner.begin_chunk()
        latents = runner.denoise(
            state,
            memory,
            length,
            seed=sampling.seed,
            sampler=sampling.sampler,
            sigmas=sampling.sigmas,
            rule=sampling.rule,
        )
        memory = runner.absorb(state, memory, latents)
        runner.settle()
        chunk = Chunk(
            latents=latents.to(runner.device),
            prompt=prompt.text,
            digest=prompt.digest,
            scene=state.scene,
            seed=sampling.seed,
            loras=maker.labels,
            rule=sampling.rule,
            entry=entry,
            text=text,
            weights=maker.weights,
            compute=maker.compute,
            key=name and name.key,
            anywhere=name and name.anywhere,
        )
        state, entry = state.with_chunk(chunk, memory_to(memory, runner.device)), "same"
        yield state


def prime(
    model: StreamModel,
    state: State,
    prompt: Prompt,
    latents: Tensor,
    *,
    callbacks: Callbacks | None = None,
    device: torch.device | str = "cpu",
) -> StreamState:
    """Fill an empty stream with latents [B, C, F, H, W] (model space): an image has F = 1, a video any F.

    A video is absorbed by the original's plan. Raises StateError if the stream isn't empty.
    """
    story = primed(model, state, prompt, latents, device=device)
    return rebuild(model, story, callbacks=callbacks, device=device)


def primed(
    model: StreamModel,
    state: State,
    prompt: Prompt,
    latents: Tensor,
    *,
    device: torch.device | str = "cpu",
) -> LightState:
    """What `prime` makes, before anything is absorbed. Raises as it does."""
    identity = check_prime(model, state).identity
    required = (identity.channels, identity.rows, identity.columns)
    shape = (latents.shape[1], *latents.shape[3:]) if latents.ndim == 5 else ()
    if shape != required or len(latents) not in (1, identity.batch):
        raise InputError(
            f"Latents of shape {list(latents.shape)} cannot prime this stream; it takes [1 or "
            f"{identity.batch}, {identity.channels}, latent frames, {identity.rows}, {identity.columns}]."
        )
    plan = model.family.chunks.plan(latents.shape[2])
    model.family.chunks.check_room(0, plan)
    maker, latents = model.maker, latents.expand(identity.batch, -1, -1, -1, -1)
    chunk = partial(
        Chunk,
        prompt=prompt.text,
        digest=prompt.digest,
        scene=state.scene,
        primed=True,
        loras=maker.labels,
        entry="primed",
        text=embedding_of(prompt, device),
        weights=maker.weights,
        compute=maker.compute,
    )
    # copies: they share no memory with the caller's tensor
    pieces = (piece.to(device, torch.float32, copy=True) for piece in latents.split(plan, dim=2))
    history = tuple(chunk(latents=piece.contiguous()) for piece in pieces)
    return LightState(identity=identity, history=history, scene=state.scene)


def check_prime(model: StreamModel, state: State) -> StreamState:
    """Raises what `prime` would for any latents, so that nothing is encoded in vain."""
    check_causal(model)
    check_fits(state, model)
    if state.history or isinstance(state, LightState):
        raise StateError(
            f"This stream already holds {state.frames} frames; only an empty one can be primed. "
            "Connect the state of a Start node."
        )
    return state


@torch.no_grad()
def _prepare(model: StreamModel, text: Embedding) -> object:
    return model.prepare_text(text.embeddings, text.mask)
