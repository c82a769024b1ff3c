"""A stream: start, prime, extend by chunks. Every function takes a state and returns new ones.

Source: longlive_flow_euler_sampler.py and diffusion/longsana/pipeline of the original; the running memory in place
of its list of all chunks is the same sum (docs/ARCHITECTURE.md tells where we differ, and why).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..callbacks import Host, StreamModel
from ..errors import InputError, StateError
from ..sampling.schedule import few_step_sigmas
from ..transformer.memory import Memory, memory_to
from ..transformer.model import PreparedText
from .chunk_runner import StreamCalls
from .state import Chunk, Identity, StreamState, check_fits, model_identity

SAMPLERS = ("few_step", "euler")
PROMPT_CHANGES = ("recache", "keep", "cut")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """Encoded words. `digest` is what a change of prompt is seen by (text.prompt_digest makes it)."""

    embeddings: Tensor  # [1 or B, L, caption channels]
    mask: Tensor | None  # [1 or B, L], true where there is text
    digest: str
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How chunks are denoised."""

    seed: int = 0
    steps: int = 4
    sampler: str = "few_step"
    shift: float = 8.0
    on_prompt_change: str = "recache"
    loras: tuple[str, ...] = ()  # names of the LoRAs in use, for the story

    def __post_init__(self) -> None:
        for name, value, possible in (
            ("sampler", self.sampler, SAMPLERS),
            ("on_prompt_change", self.on_prompt_change, PROMPT_CHANGES),
        ):
            if value not in possible:
                raise InputError(f"{name} is “{value}”; choose one of: {', '.join(possible)}.")

    @property
    def sigmas(self) -> tuple[float, ...]:
        return few_step_sigmas(self.steps, self.shift)


def start(
    model: StreamModel, *, height: int, width: int, batch: int = 1, window: int | None = None
) -> StreamState:
    """An empty stream of `height` x `width` pixels. Raises InputError for a model that is not block-causal."""
    _check_causal(model)
    if batch < 1 or (window is not None and window < 1):
        raise InputError(f"Batch {batch} and window {window} were given; both have to be at least 1.")
    rows, columns = model.family.compression.grid(height, width)
    identity = Identity(**model_identity(model), rows=rows, columns=columns, batch=batch, window=window)
    return StreamState(identity=identity)


def _check_causal(model: StreamModel) -> None:
    if not model.family.causal:
        raise InputError(
            f"The model is loaded as {model.family.title}; a stream needs a block-causal one. If the file is a LongSANA "
            "checkpoint, choose the family longsana_480p where it is loaded (in Load SANA-Video Model; the weights cannot tell)."
        )


def extend(
    model: StreamModel,
    state: StreamState,
    prompt: Prompt,
    sampling: Sampling,
    *,
    chunks: int = 1,
    plan: tuple[int, ...] | None = None,
    host: Host | None = None,
    park: torch.device | str = "cpu",
) -> Iterator[StreamState]:
    """Make `chunks` more chunks (or chunks of the latent lengths in `plan`); yields the state after each.

    Everything that can be refused is refused by this call, before any work. A chunk that is cancelled, fails or
    is not finite raises (ChunkError names chunk and step); the state yielded before it stays good. States lie on
    the device `park`.
    """
    state, plan = check_request(model, state, prompt, sampling, chunks=chunks, plan=plan)
    calls = StreamCalls(
        model,
        _prepare(model, prompt),
        host or Host(),
        chunks=len(plan),
        calls_per_chunk=len(sampling.sigmas),
        park=park,
    )
    return _extend(calls, state, prompt, sampling, plan)


def check_request(
    model: StreamModel,
    state: StreamState,
    prompt: Prompt,
    sampling: Sampling,
    *,
    chunks: int = 1,
    plan: tuple[int, ...] | None = None,
) -> tuple[StreamState, tuple[int, ...]]:
    """Refuse what `extend` cannot do, before any work. Returns the state that it begins with (cut, if asked) and its plan."""
    _check_causal(model)
    check_fits(state, model)
    if _prompt_changed(state, prompt) and sampling.on_prompt_change == "cut":
        state = state.with_cut()
    plan = model.family.chunks.following(state.position, chunks) if plan is None else plan
    model.family.chunks.check_room(state.position, plan)
    if len(prompt.embeddings) not in (1, state.identity.batch):
        raise InputError(
            f"{len(prompt.embeddings)} prompts do not fit a stream of batch {state.identity.batch}: give one, or "
            "one for each."
        )
    return state, plan


def _prompt_changed(state: StreamState, prompt: Prompt) -> bool:
    return bool(state.position) and state.story[-1].digest != prompt.digest


def _extend(
    calls: StreamCalls, state: StreamState, prompt: Prompt, sampling: Sampling, plan: tuple[int, ...]
) -> Iterator[StreamState]:
    if _prompt_changed(state, prompt) and sampling.on_prompt_change == "recache":
        state = calls.recache(state)
    memory = memory_to(state.memory, calls.device)  # stays on the device from chunk to chunk
    for length in plan:
        calls.begin_chunk()
        latents = calls.denoise(
            state, memory, length, seed=sampling.seed, sampler=sampling.sampler, sigmas=sampling.sigmas
        )
        memory = calls.absorb(state, memory, latents)
        chunk = Chunk(
            latents=latents.to(calls.park),
            prompt=prompt.words,
            digest=prompt.digest,
            scene=state.scene,
            seed=sampling.seed,
            loras=sampling.loras,
        )
        state = state.with_chunk(chunk, memory_to(memory, calls.park))
        yield state


def prime(
    model: StreamModel,
    state: StreamState,
    prompt: Prompt,
    latents: Tensor,
    *,
    host: Host | None = None,
    park: torch.device | str = "cpu",
) -> StreamState:
    """Fill an empty stream with given latents [B, C, F, H, W] (model space): an image has F = 1, a video any F.

    A video is absorbed by the original's plan. Raises StateError when the stream has begun.
    """
    check_prime(model, state)
    own = state.identity
    expected = (own.channels, own.rows, own.columns)
    if (
        latents.ndim != 5
        or (latents.shape[1], *latents.shape[3:]) != expected
        or len(latents) not in (1, own.batch)
    ):
        raise InputError(
            f"Latents of shape {list(latents.shape)} cannot prime this stream; it takes [1 or {own.batch}, {own.channels}, "
            f"latent frames, {own.rows}, {own.columns}]."
        )
    latents = latents.to(model.device, torch.float32).expand(own.batch, -1, -1, -1, -1)
    plan = model.family.chunks.plan(latents.shape[2])
    model.family.chunks.check_room(0, plan)
    calls = StreamCalls(
        model, _prepare(model, prompt), host or Host(), chunks=len(plan), calls_per_chunk=1, park=park
    )
    memory: Memory | None = None
    for piece in latents.split(plan, dim=2):
        calls.begin_chunk()
        memory = calls.absorb(state, memory, piece)
        kept = piece.clone().to(park)  # owns its memory, and shares none with what the caller gave
        chunk = Chunk(latents=kept, prompt=prompt.words, digest=prompt.digest, scene=state.scene, primed=True)
        state = state.with_chunk(chunk, memory_to(memory, park))
    return state


def check_prime(model: StreamModel, state: StreamState) -> None:
    """Refuse what `prime` cannot do with any latents, so that nothing is encoded for it."""
    _check_causal(model)
    check_fits(state, model)
    if state.story:
        raise StateError(
            f"This stream already holds {state.frames} frames; only an empty one can be primed. Connect the state of a "
            "Start node."
        )


@torch.no_grad()
def _prepare(model: StreamModel, prompt: Prompt) -> PreparedText:
    return model.prepare_text(prompt.embeddings, prompt.mask)
