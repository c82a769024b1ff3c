"""The model calls of a stream: each asks the host first, is checked for numbers, and is reported."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..callbacks import Host, Progress, StreamModel
from ..errors import ChunkError
from ..sampling.noise import draw_noise
from ..sampling.solvers import sample_euler, sample_few_step
from ..transformer.memory import Memory, memory_to
from ..transformer.model import PreparedText
from .state import StreamState


class StreamCalls:
    """A model with one prompt at work on `chunks` chunks of `calls_per_chunk` model calls each.

    Keeps count of where the work is, and nothing else: states and memories pass through as values.
    """

    def __init__(
        self,
        model: StreamModel,
        text: PreparedText,
        host: Host,
        *,
        chunks: int,
        calls_per_chunk: int,
        park: torch.device | str,
    ) -> None:
        self.model, self.text, self.host = model, text, host
        self.chunks, self.calls_per_chunk, self.park = chunks, calls_per_chunk, park
        self.chunk = self.step = 0

    @property
    def device(self) -> torch.device:
        return self.model.device

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
        state: StreamState,
        memory: Memory | None,
        length: int,
        *,
        seed: int,
        sampler: str,
        sigmas: tuple[float, ...],
    ) -> Tensor:
        """Clean latents [B, C, length, H, W], float32 on the model's device. The memory is only read."""
        own = state.identity

        def draw(number: int) -> Tensor:
            first = state.latent_frames
            size = {"batch": own.batch, "channels": own.channels, "grid": own.grid}
            return draw_noise(seed, first, length, number, **size).to(self.device)

        def velocity(x: Tensor, sigma: float) -> Tensor:
            self.host.check(self._where)
            timesteps = torch.full((len(x),), 1000 * sigma, device=x.device)
            v = self.model(x, timesteps, self.text, memory=memory, first_frame=state.position)
            self._finish([v], x - sigma * v)
            return v

        if sampler == "euler":
            return sample_euler(velocity, draw(0), sigmas)
        return sample_few_step(velocity, draw, sigmas)

    @torch.no_grad()
    def absorb(self, state: StreamState, memory: Memory | None, latents: Tensor) -> Memory:
        """The memory after clean latents that follow `state`, on the model's device."""
        self.host.check(self._where)
        window = state.identity.window
        after = self.model.absorb(
            latents, self.text, memory=memory, first_frame=state.position, window=window
        )
        results = [tensor for block in after for tensor in (*block.past, block.tail)]
        # a copy: what a listener does to it must not reach a state, a chunk or what a caller gave
        self._finish(results, latents.clone())
        return after

    def recache(self, state: StreamState) -> StreamState:
        """The state with its last chunk absorbed again under this prompt, from the memory before it.

        Source: KV-recache of LongLive (arXiv 2509.22622).
        """
        last, before = state.story[-1], replace(state, story=state.story[:-1])
        memory = self.absorb(
            before, memory_to(state.memory_before, self.device), last.latents.to(self.device)
        )
        return replace(state, memory=memory_to(memory, self.park))

    def _finish(self, results: list[Tensor], latents: Tensor) -> None:
        """Refuse what is not finite, then tell the host."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in results):
            raise ChunkError(
                f"The model returned values that are not numbers {self._where}, so this chunk was dropped; everything "
                f"before it is kept. It ran in {self.model.dtype}: try bfloat16 or float32, or without LoRAs."
            )
        self.step += 1
        self.host.progress(Progress(self.chunk, self.chunks, self.step, self.calls_per_chunk, latents))
