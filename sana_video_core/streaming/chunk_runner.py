"""The model calls of a stream: cancellable, checked for NaN and Inf, and reported.

A GPU isn't waited for: while it computes a call, the next one is prepared, and then the call before is
checked and reported. So a GPU has always work, and a bad call is known one call later.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arriving import Arriving, sent
from ..callbacks import Callbacks, Progress
from ..errors import ChunkError
from ..sampling.noise import draw_noise
from ..sampling.solvers import sample_euler, sample_few_step
from ..transformer.memory import Memory, memory_tensors, memory_to
from .state import Story, StreamState
from .stream_model import StreamModel


class ChunkRunner:
    """Runs a model with one prompt for `chunks` chunks of `calls_per_chunk` model calls each.

    It only counts where the work is; states and memories pass through as values.
    """

    def __init__(
        self,
        model: StreamModel,
        text: Any,  # from the model's prepare_text
        callbacks: Callbacks,
        *,
        chunks: int,
        calls_per_chunk: int,
        device: torch.device | str,  # for states
    ) -> None:
        self.model, self.text, self.callbacks = model, text, callbacks
        self.chunks, self.calls_per_chunk, self.device = chunks, calls_per_chunk, device
        self.chunk = self.step = 0
        self._unsettled: _Call | None = None

    @property
    def _where(self) -> str:
        if self.chunk == 0:
            return "while the last chunk was absorbed again under the new prompt"
        return f"at step {self.step + 1} of {self.calls_per_chunk} in chunk {self.chunk} of {self.chunks}"

    def begin_chunk(self) -> None:
        self.chunk, self.step = self.chunk + 1, 0

    @torch.no_grad()
    def denoise(
        self,
        state: Story,
        memory: Memory | None,
        length: int,
        *,
        seed: int,
        sampler: str,
        sigmas: tuple[float, ...],
        rule: str,
    ) -> Tensor:
        """Clean latents [B, C, length, H, W], float32 on the model's device. The memory is only read."""
        identity, first = state.identity, state.position

        def draw(number: int) -> Tensor:
            noise = draw_noise(
                seed,
                first,
                length,
                number,
                batch=identity.batch,
                channels=identity.channels,
                grid=identity.grid,
                pinned=self.model.device.type == "cuda",
            )
            return sent(noise, self.model.device).contiguous()

        def velocity(x: Tensor, sigma: float) -> Tensor:
            self.callbacks.check(self._where)
            timesteps = torch.full((len(x),), 1000 * sigma, device=x.device)
            v = self.model(x, timesteps, self.text, memory=memory, first_frame=state.position)
            self._finish([v], x - sigma * v)
            return v

        if sampler == "euler":
            return sample_euler(velocity, draw(0), sigmas)
        return sample_few_step(velocity, draw, sigmas, rule)

    @torch.no_grad()
    def absorb(self, state: Story, memory: Memory | None, latents: Tensor) -> Memory:
        """The memory after clean latents that follow `state`, on the model's device."""
        self.callbacks.check(self._where)
        after = self.model.absorb(
            latents, self.text, memory=memory, first_frame=state.position, window=state.identity.window
        )
        # a copy, in case the callback writes to it
        self._finish(memory_tensors(after), latents.clone())
        return after

    def recache(self, state: StreamState) -> StreamState:
        """The state with its last chunk absorbed again under this prompt, from the memory before it.

        Source: KV-recache of LongLive (arXiv 2509.22622).
        """
        device = self.model.device
        last, before = state.history[-1], replace(state, history=state.history[:-1])
        memory = self.absorb(before, memory_to(state.memory_before, device), last.latents.to(device))
        self.settle()
        return replace(state, memory=memory_to(memory, self.device))

    def _finish(self, results: list[Tensor], latents: Tensor) -> None:
        """Settles the call before, and this one at once unless it is still in a GPU's queue."""
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in results]).all()
        progress = Progress(self.chunk, self.chunks, self.step + 1, self.calls_per_chunk, latents)
        call = _Call(Arriving(finite), self._where, progress)
        self.step += 1
        self.settle()
        self._unsettled = call
        if not finite.is_cuda:
            self.settle()

    def settle(self) -> None:
        """Waits for the last call. Raises ChunkError if it made NaN or Inf, else reports it."""
        call, self._unsettled = self._unsettled, None
        if call is None:
            return
        if not bool(call.finite.wait()):
            raise ChunkError(
                f"The model returned NaN or Inf {call.where}, so this chunk was dropped; everything before "
                f"it is kept. It ran in {self.model.dtype}: try bfloat16 or float32, or without LoRAs."
            )
        self.callbacks.progress(call.progress)


class _Call(NamedTuple):
    finite: Arriving
    where: str
    progress: Progress
