"""SanaVideo, the transformer of every family. It reads memories and makes new ones, but never writes to one.

B batch, C channels, F latent frames, H W latent rows and columns, N tokens, D width, L text tokens. Source:
SanaMSVideo in diffusion/model/nets/sana_multi_scale_video.py of the original (arXiv 2509.24695).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import Family, TransformerConfig
from ..errors import InputError
from ..shapes import LatentGrid
from .embedders import CaptionEmbedder, PatchEmbedder, TimestepEmbedder
from .gemm import Fp8Gemm, FullGemm, Gemm, WeightsOf, layer_weights
from .inputs import check_memory, check_text, check_text_fits, check_timesteps, without_padding
from .layers import MASKED, Block, BlockContext, FinalLayer, PreparedText
from .maker import AppliedLora, Maker, maker_of
from .memory import BlockMemory, Memory, check_window
from .ops import Choice, choose
from .pass_graphs import Pass, PassGraphs, PassInputs
from .positions import rotary_table
from .runner import Runner, choose_runner

CAPTION_NORM_EPS = 1e-5


class SanaVideo(nn.Module):
    """The network. `family` has the sampling rules, which the weights don't show.

    `operations` supplies Linear, Conv2d, Conv3d, LayerNorm and RMSNorm: torch.nn, or a host's own classes
    that cast, offload and patch weights. `fingerprint` identifies the weights as stored in the file; the
    checkpoint's loader sets it, and states remember it.
    """

    def __init__(
        self,
        config: TransformerConfig,
        family: Family,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.config, self.family = config, family
        self.fingerprint: str | None = None
        self.loras: tuple[AppliedLora, ...] = ()  # those that the weights contain
        self.kernels = "auto"  # a name in config.BACKENDS
        self.precision = "full"  # of the large GEMMs: a name in config.PRECISIONS
        self.graphs: PassGraphs | None = None  # whoever knows that the weights stay may give it some
        self._prepared_runner: Runner | None = None  # chosen by the last prepare_text
        self._held_runner: Runner | None = None  # while `runner_chosen` holds it
        # a host whose layers cast or patch their weights sets its own function
        self.weights_of: WeightsOf = layer_weights
        self.x_embedder = PatchEmbedder(config, operations, **place)
        self.t_embedder = TimestepEmbedder(config, operations, **place)
        self.t_block = nn.Sequential(nn.SiLU(), operations.Linear(config.width, 6 * config.width, **place))
        self.y_embedder = CaptionEmbedder(config, operations, **place)
        self.attention_y_norm = operations.RMSNorm(config.width, eps=CAPTION_NORM_EPS, **place)
        self.blocks = nn.ModuleList(Block(config, operations, **place) for _ in range(config.depth))
        self.final_layer = FinalLayer(config, operations, **place)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.final_layer.linear.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.final_layer.linear.weight.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype that the network computes in. Hosts that cast weights override it."""
        return self.dtype

    @property
    def compute_device(self) -> torch.device:
        """Where the network computes. Hosts that move weights when needed override it."""
        return self.device

    @property
    def maker(self) -> Maker:
        """What decides the bits of its results, besides its file and the inputs."""
        return maker_of(self, self.loras)

    def prepare_text(self, text: Tensor, text_mask: Tensor | None = None) -> PreparedText:
        """Project embeddings [B, L, caption channels] with mask [B, L] (true or 1 = text), once a prompt.

        Also chooses the runner of all passes with prepared text: prepare again after patching a layer.
        """
        prepared = self._project(text, text_mask)
        self._prepared_runner = None if _learning(self) else self._choose_runner()
        return prepared

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

        def velocity(inputs: PassInputs) -> Tensor:
            x, time, modulation = self._embed(inputs.latents, inputs.timesteps, runner)
            here = context._replace(rotary=inputs.rotary)
            for run, keys, past in zip(runner.blocks, prepared.blocks, inputs.pasts, strict=False):
                x = run(x, modulation, keys, prepared.bias, here, past)[0]
            x = runner.final(x, time, context.frames)
            return self._unpatchify(x, context).to(latents.dtype)

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

    def _run(
        self, name: str, function: Pass, inputs: PassInputs, prepared: PreparedText, runner: Runner
    ) -> Any:
        if self.graphs is None or torch.compiler.is_compiling() or not inputs.latents.is_cuda:
            return function(inputs)
        return self.graphs.run(name, function, inputs, made_for=(prepared, runner))

    def kernel_choice(self, device: torch.device, dtype: torch.dtype) -> Choice:
        """Whether the fused kernels run on `device` in `dtype`, why not, and whether in FP8.

        Raises InputError if they were asked for but cannot run.
        """
        widths = self.config.width, self.config.ffn_hidden
        try:
            return choose(self.kernels, device, dtype, self.config.head_dim, self.precision, widths)
        except ValueError as error:
            raise InputError(str(error)) from error

    @contextmanager
    def runner_chosen(self) -> Iterator[None]:
        """Choose one runner for all passes inside. Don't patch layers meanwhile."""
        before, self._held_runner = self._held_runner, self._choose_runner()
        try:
            yield
        finally:
            self._held_runner = before

    def _runner_for(self, text: Tensor | PreparedText, latents: Tensor) -> Runner:
        if torch.compiler.is_compiling():  # first, so that compilers don't trace the rest
            return self._plain_runner()
        device = torch.device(self.compute_device).type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        # kernels have no gradients, and GEMMs with `out` ignore autocast
        if autocast or _learning(self, latents):
            return self._plain_runner()
        prepared = self._prepared_runner if isinstance(text, PreparedText) else None
        for runner in (self._held_runner, prepared):
            # a host may set other kernels, or exchange blocks for compiled ones, at any time
            if runner is not None and (runner.settings, runner.parts) == (self._settings, self._parts):
                return runner
        return self._choose_runner()

    @property
    def _settings(self) -> tuple[str, str]:
        return self.kernels, self.precision

    @property
    def _parts(self) -> tuple[nn.Module, ...]:
        return self.x_embedder, *self.blocks, self.final_layer

    def _plain_runner(self, gemm: Gemm[Any] | None = None) -> Runner:
        blocks = tuple(self._blocks())
        return choose_runner(self._settings, self.x_embedder, blocks, self.final_layer, gemm)

    def _choose_runner(self) -> Runner:
        """The fused runner if the kernels run, else the plain one."""
        if torch.compiler.is_compiling():
            return self._plain_runner()
        choice = self.kernel_choice(torch.device(self.compute_device), self.compute_dtype)
        gemm: Gemm[Any] | None = None
        if choice.triton:
            gemm = (Fp8Gemm if choice.fp8 else FullGemm)(self.weights_of)
        return self._plain_runner(gemm)

    def _blocks(self) -> Iterable[Block]:
        return cast(Iterable[Block], self.blocks)

    def _project(self, text: Tensor, text_mask: Tensor | None) -> PreparedText:
        check_text(text, text_mask, self.config.caption_channels)
        text, text_mask = without_padding(text, text_mask)
        caption = self.attention_y_norm(
            self.y_embedder.y_proj(text.to(self.compute_device, self.compute_dtype))
        )
        bias = None
        if text_mask is not None:
            padding = ~text_mask.to(self.compute_device, torch.bool)
            bias = (padding.to(self.compute_dtype) * MASKED)[:, None, None, :]
        return PreparedText(
            caption, tuple(block.cross_attn.text_keys(caption) for block in self._blocks()), bias
        )

    def _embed(self, latents: Tensor, timesteps: Tensor, runner: Runner) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, N, D], time embedding [B, 1 or F, D] and modulation [B, 1 or F, 6, D]."""
        batch, frames = latents.shape[0], latents.shape[2]
        check_timesteps(timesteps, batch, frames)
        x = runner.patchify(latents.to(self.compute_device, self.compute_dtype))
        time = self.t_embedder(timesteps.view(batch, -1), self.compute_dtype)
        return x, time, self.t_block(time).unflatten(-1, (6, -1))

    def _unpatchify(self, x: Tensor, context: BlockContext) -> Tensor:
        """[B, N, patch * patch * C], channels fastest -> [B, C, F, H, W]."""
        p = self.config.patch
        x = x.unflatten(2, (p, p, -1)).unflatten(1, (context.frames, *context.grid))
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _prepared(self, text: Tensor | PreparedText, mask: Tensor | None, latents: Tensor) -> PreparedText:
        if isinstance(text, PreparedText):
            if mask is not None:
                raise InputError("A prepared text carries its mask; do not give another one with it.")
        else:
            text = self._project(text, mask)
        required = (len(self.blocks), self.config.width, latents.shape[0])
        check_text_fits((len(text.blocks), text.caption.shape[-1], text.caption.shape[0]), required)
        return text

    def _context(self, latents: Tensor, memory: Memory | None, first_frame: int) -> BlockContext:
        if latents.ndim != 5 or latents.shape[1] != self.config.channels or not latents.numel():
            raise InputError(
                f"Latents of shape {list(latents.shape)} were given; this model takes [batch, "
                f"{self.config.channels}, latent frames, rows, columns]."
            )
        frames = latents.shape[2]
        grid = LatentGrid(latents.shape[3], latents.shape[4]).tokens(self.config.patch)
        if first_frame < 0:
            raise InputError(f"The first latent frame is {first_frame}; positions start at 0.")
        self.family.chunks.check_room(first_frame, (frames,))
        if memory is not None:
            check_memory(memory, self.config, latents.shape[0], grid)
        rotary = rotary_table(frames, grid, self.config.rotary_split, first_frame, self.compute_device)
        return BlockContext(frames, grid, rotary)


def _learning(network: nn.Module, latents: Tensor | None = None) -> bool:
    """Whether this call needs gradients."""
    if not torch.is_grad_enabled():
        return False
    return any(p.requires_grad for p in network.parameters()) or (
        latents is not None and latents.requires_grad
    )
