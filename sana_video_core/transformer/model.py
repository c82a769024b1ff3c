"""SanaVideo, the transformer of the 2B families. It reads memories and makes new ones, never writes to one.

B batch, C channels, F latent frames, H W latent rows and columns, N tokens, D width, L text tokens. Source:
SanaMSVideo in diffusion/model/nets/sana_multi_scale_video.py of the original (arXiv 2509.24695).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config import Family, TransformerConfig
from ..errors import InputError
from .gemm import Gemm
from .inputs import check_memory, check_timesteps
from .layers import Block, BlockContext, PreparedText
from .memory import BlockMemory, Memory, check_window
from .network import VideoNetwork
from .pass_graphs import PassInputs
from .positions import rotary_table
from .runner import Runner, choose_runner


class SanaVideo(VideoNetwork[TransformerConfig]):
    """The network with linear attention in every block, and a memory of what came before."""

    def __init__(
        self,
        config: TransformerConfig,
        family: Family,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place = {"device": device, "dtype": dtype}
        blocks = (Block(config, operations, **place) for _ in range(config.depth))
        super().__init__(config, family, blocks, operations=operations, **place)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor | PreparedText,
        text_mask: Tensor | None = None,
        *,
        memory: Memory | None = None,
        first_frame: int = 0,
    ) -> Tensor:
        """The velocity (noise minus clean) of noisy latents [B, C, F, H, W], in their shape and dtype.

        `timesteps` [B] or [B, F] in 0..1000 are integers or floats (truncated inside). `text` is raw
        embeddings with `text_mask`, or what `prepare_text` returned. `first_frame` is the position of the
        first latent frame in its scene. Raises InputError or StateError before any work.
        """
        prepared = self._prepared(text, text_mask, latents)
        context = self._context(latents, memory, first_frame)
        runner = self._runner_for(text, latents)
        timesteps = torch.as_tensor(timesteps, device=self.compute_device)
        check_timesteps(timesteps, latents.shape[0], context.frames)

        def velocity(inputs: PassInputs) -> Tensor:
            x, time, modulation = self._embed(inputs.latents, inputs.timesteps, runner)
            here = context._replace(rotary=inputs.rotary)
            for run, keys, past in zip(runner.blocks, prepared.blocks, inputs.pasts, strict=False):
                x = run(x, modulation, keys, prepared.bias, here, past)[0]
            x = runner.final(x, time, context.frames)
            return self._unpatchify(x, context.frames, context.grid).to(latents.dtype)

        inputs = PassInputs(latents, timesteps, context.rotary, memory)
        return self._run("velocity", velocity, inputs, prepared, runner)

    def absorb(
        self,
        latents: Tensor,
        text: Tensor | PreparedText,
        text_mask: Tensor | None = None,
        *,
        memory: Memory | None = None,
        first_frame: int = 0,
        window: int | None = None,
    ) -> Memory:
        """The memory after clean latents [B, C, F, H, W], by one pass at timestep 0. All its tensors are new.

        With `window` it looks back on that many chunks instead of all, and keeps that setting.
        """
        if window is None and memory:
            window = memory[0].window
        check_window(memory, window)
        prepared = self._prepared(text, text_mask, latents)
        context = self._context(latents, memory, first_frame)
        runner = self._runner_for(text, latents)
        times = torch.zeros(latents.shape[0], device=latents.device)

        def advanced(inputs: PassInputs) -> Memory:
            x, _, modulation = self._embed(inputs.latents, inputs.timesteps, runner)
            here = context._replace(rotary=inputs.rotary)
            after: list[BlockMemory] = []
            for run, keys, past in zip(runner.blocks, prepared.blocks, inputs.pasts, strict=False):
                x, contribution = run(x, modulation, keys, prepared.bias, here, past)
                after.append(contribution.begin(window) if past is None else past.advance(contribution))
            return tuple(after)

        inputs = PassInputs(latents, times, context.rotary, memory)
        return self._run(f"absorb, window {window}", advanced, inputs, prepared, runner)

    def _runner(self, gemm: Gemm[Any] | None) -> Runner:
        blocks = tuple(self._blocks())
        return choose_runner(self._settings, self.x_embedder, blocks, self.final_layer, gemm)

    def _context(self, latents: Tensor, memory: Memory | None, first_frame: int) -> BlockContext:
        frames, grid = latents.shape[2], self._token_grid(latents)
        if first_frame < 0:
            raise InputError(f"The first latent frame is {first_frame}; positions start at 0.")
        self.family.chunks.check_room(first_frame, (frames,))
        if memory is not None:
            check_memory(memory, self.config, latents.shape[0], grid)
        rotary = rotary_table(frames, grid, self.config.rotary_split, first_frame, self.compute_device)
        return BlockContext(frames, grid, rotary)
