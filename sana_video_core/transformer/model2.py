"""SanaVideo2, the transformer of SANA-Video 2.0. It sees a whole clip at once, and has no memory.

B batch, C channels, F latent frames, H W latent rows and columns, N tokens, D width, L text tokens. Source:
the network of SANA-Video 2.0 in diffusion/model/nets of the original, main after its pull request 471.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config import Family, Sana2Config
from ..errors import InputError
from .gemm import Gemm
from .inputs import timesteps_in_rows
from .layers import PreparedText
from .layers2 import Block2, BlockContext2, ResidualVectors, Sources
from .network import VideoNetwork
from .ops import Choice, choose_gated
from .pass_graphs import PassInputs
from .positions import rotary_table
from .runner import Runner, choose_runner2


class SanaVideo2(VideoNetwork[Sana2Config]):
    """The network with linear attention in most layers, softmax in every fourth, and attention residuals."""

    def __init__(
        self,
        config: Sana2Config,
        family: Family,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place = {"device": device, "dtype": dtype}
        blocks = (Block2(config, layer, operations, **place) for layer in range(config.depth))
        super().__init__(config, family, blocks, operations=operations, **place)
        self.attn_res = ResidualVectors(config, operations, **place)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor | PreparedText,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """The velocity (noise minus clean) of noisy latents [B, C, F, H, W], in their shape and dtype.

        `timesteps` in 0..1000 are integers or floats (truncated inside): [B], one per latent frame [B, F],
        or one per token [B, F, H, W]. `text` is raw embeddings with `text_mask`, or what `prepare_text`
        returned. Raises InputError before any work.
        """
        context = self._context(latents)
        prepared = self._prepared(text, text_mask, latents)
        runner = self._runner_for(text, latents)
        times = torch.as_tensor(timesteps, device=self.compute_device)
        times = timesteps_in_rows(times, latents.shape[0], context.frames, context.grid)

        def velocity(inputs: PassInputs) -> Tensor:
            x, time, modulation = self._embed(inputs.latents, inputs.timesteps, runner)
            here = context._replace(linear_rotary=inputs.rotary[:2], softmax_rotary=inputs.rotary[2:])
            sources: Any = Sources.of(x, self.attn_res.vectors(self.weights_of, x))
            for layer, (run, keys) in enumerate(zip(runner.blocks, prepared.blocks, strict=True)):
                sources = run(sources, modulation, keys, prepared.bias, here)
                if self.config.closes_group(layer):
                    sources = sources.group_closed()
            x = runner.final(sources, time, time.shape[1])
            return self._unpatchify(x, context.frames, context.grid).to(latents.dtype)

        inputs = PassInputs(latents, times, (*context.linear_rotary, *context.softmax_rotary), None)
        return self._run("velocity", velocity, inputs, prepared, runner)

    def _runner(self, gemm: Gemm[Any] | None) -> Runner:
        blocks = tuple(self._blocks())
        return choose_runner2(self._settings, self.x_embedder, blocks, self.final_layer, gemm)

    def _choice(self, device: torch.device, dtype: torch.dtype) -> Choice:
        config = self.config
        heads, sources = (config.head_dim, config.softmax_head_dim), 1 + -(-config.depth // config.group)
        widths = config.width, config.ffn_hidden
        return choose_gated(self.kernels, device, dtype, heads, sources, self.precision, widths)

    def _project(self, text: Tensor, text_mask: Tensor | None) -> PreparedText:
        check_dtype(self.compute_dtype)
        return super()._project(text, text_mask)

    def _context(self, latents: Tensor) -> BlockContext2:
        frames, grid = latents.shape[2], self._token_grid(latents)
        self.family.chunks.check_room(0, (frames,))
        splits = self.config.rotary_split, self.config.softmax_rotary_split
        return BlockContext2(
            frames, grid, *(rotary_table(frames, grid, split, 0, self.compute_device) for split in splits)
        )


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raises InputError for a type that this network can't compute in."""
    if dtype == torch.float16:
        raise InputError(
            "SANA-Video 2.0 cannot compute in float16: its attention sums over all tokens of a clip, and "
            "these numbers are too large for it. Choose bfloat16 or float32."
        )
