"""What the networks of all families share: embedders, the prompt, devices, and the choice of a runner.

B batch, C channels, F latent frames, H W latent rows and columns, N tokens, D width, L text tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from ..config import Family, TransformerConfig
from ..errors import InputError
from ..shapes import LatentGrid
from .embedders import CaptionEmbedder, PatchEmbedder, TimestepEmbedder
from .gemm import Fp8Gemm, FullGemm, Gemm, WeightsOf, layer_weights
from .inputs import check_latents, check_text, check_text_fits, without_padding
from .layers import MASKED, FinalLayer, PreparedText
from .maker import AppliedLora, Maker, maker_of
from .ops import Choice, choose
from .pass_graphs import Pass, PassGraphs, PassInputs
from .runner import Runner

CAPTION_NORM_EPS = 1e-5


Config = TypeVar("Config", bound=TransformerConfig)


class VideoNetwork(nn.Module, Generic[Config]):
    """One of the networks. `family` has the sampling rules, which the weights don't show.

    `operations` supplies Linear, Conv2d, Conv3d, LayerNorm and RMSNorm: torch.nn, or a host's own classes
    that cast, offload and patch weights. `fingerprint` identifies the weights as stored in the file; the
    checkpoint's loader sets it, and states remember it.
    """

    def __init__(
        self,
        config: Config,
        family: Family,
        blocks: Iterable[nn.Module],
        *,
        operations: Any,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
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
        self.blocks = nn.ModuleList(blocks)
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
        try:
            return self._choice(device, dtype)
        except ValueError as error:
            raise InputError(str(error)) from error

    def _choice(self, device: torch.device, dtype: torch.dtype) -> Choice:
        widths = self.config.width, self.config.ffn_hidden
        return choose(self.kernels, device, dtype, self.config.head_dim, self.precision, widths)

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
            return self._runner(None)
        device = torch.device(self.compute_device).type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        # kernels have no gradients, and GEMMs with `out` ignore autocast
        if autocast or _learning(self, latents):
            return self._runner(None)
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

    @abstractmethod
    def _runner(self, gemm: Gemm[Any] | None) -> Runner:
        """Fused if there is a `gemm`, except for parts with a changed layer."""

    def _choose_runner(self) -> Runner:
        """The fused runner if the kernels run, else the plain one."""
        if torch.compiler.is_compiling():
            return self._runner(None)
        choice = self.kernel_choice(torch.device(self.compute_device), self.compute_dtype)
        gemm: Gemm[Any] | None = None
        if choice.triton:
            gemm = (Fp8Gemm if choice.fp8 else FullGemm)(self.weights_of)
        return self._runner(gemm)

    def _blocks(self) -> Iterable[Any]:
        return cast(Iterable[Any], self.blocks)

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
        """Tokens [B, N, D], and of T timesteps each embedding [B, T, D] and modulation [B, T, 6, D]."""
        x = runner.patchify(latents.to(self.compute_device, self.compute_dtype))
        time = self.t_embedder(timesteps.view(len(latents), -1), self.compute_dtype)
        return x, time, self.t_block(time).unflatten(-1, (6, -1))

    def _unpatchify(self, x: Tensor, frames: int, grid: LatentGrid) -> Tensor:
        """[B, N, patch * patch * C], channels fastest -> [B, C, F, H, W]; `grid` is that of tokens."""
        p = self.config.patch
        x = x.unflatten(2, (p, p, -1)).unflatten(1, (frames, *grid))
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

    def _token_grid(self, latents: Tensor) -> LatentGrid:
        """Rows and columns of tokens. Raises InputError for latents that this network doesn't take."""
        check_latents(latents, self.config.channels)
        return LatentGrid(latents.shape[3], latents.shape[4]).tokens(self.config.patch)


def _learning(network: nn.Module, latents: Tensor | None = None) -> bool:
    """Whether this call needs gradients."""
    if not torch.is_grad_enabled():
        return False
    return any(p.requires_grad for p in network.parameters()) or (
        latents is not None and latents.requires_grad
    )
