"""SanaVideo: the transformer of every family. Reads a memory, or makes one; never writes to one.

B batch, C channels, F latent frames, H W latent rows and columns, N tokens, D width, L text tokens.
Source: SanaMSVideo in diffusion/model/nets/sana_multi_scale_video.py of the original (arXiv 2509.24695).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Family, TransformerConfig
from ..errors import InputError
from ..shapes import LatentGrid
from .fused_block import fused_block, fused_final, fused_patches
from .gemm import Fp8Products, FullProducts, Products, WeightsOf, own_weights
from .inputs import check_memory, check_text, without_padding
from .layers import MASKED, Block, BlockContext, FinalLayer, TextKeys
from .memory import Memory, check_window, first_block_state, memory_window
from .ops import Choice, choose
from .positions import TIMESTEP_DIMENSIONS, rotary_table, timestep_features

CAPTION_NORM_EPS = 1e-5


class PreparedText(NamedTuple):
    """One prompt, projected once for all steps and chunks."""

    caption: Tensor  # [B, L, D]
    blocks: tuple[TextKeys, ...]
    bias: Tensor | None  # [B, 1, 1, L], 0 where there is text and very low where there is padding


class PatchEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        kernel = (1, config.patch, config.patch)
        self.proj = ops.Conv3d(config.channels, config.width, kernel, stride=kernel, **place)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, C, F, H, W] -> tokens [B, N, D] in the order time, row, column."""
        return self.proj(latents).flatten(2).transpose(1, 2).contiguous()


class TimestepEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        width = config.width
        self.mlp = nn.Sequential(
            ops.Linear(TIMESTEP_DIMENSIONS, width, **place), nn.SiLU(), ops.Linear(width, width, **place)
        )

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        return self.mlp(timestep_features(timesteps).to(dtype))


class CaptionProjection(nn.Module):
    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        self.fc1 = ops.Linear(config.caption_channels, config.width, **place)
        self.fc2 = ops.Linear(config.width, config.width, **place)

    def forward(self, text: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(text), approximate="tanh"))


class CaptionEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        self.y_proj = CaptionProjection(config, ops, **place)


class SanaVideo(nn.Module):
    """The network. `family` gives the rules of sampling; the weights cannot tell them.

    `operations` supplies Linear, Conv2d, Conv3d, LayerNorm and RMSNorm: torch.nn, or a host's own classes that
    cast, offload and patch weights. `fingerprint` names the weights as they lay in the file; a checkpoint's
    loader sets it, and a state remembers it.
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
        self.kernels = "auto"  # which version of the blocks runs: a name in ops.BACKENDS
        self.precision = "full"  # of the large products: a name in ops.PRECISIONS
        # a host whose layers cast or patch their weights hands them out itself
        self.weights_of: WeightsOf = own_weights
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
        """The dtype that the network computes in; a host whose layers cast their weights may set another."""
        return self.dtype

    @property
    def compute_device(self) -> torch.device:
        """Where the network computes; a host whose layers fetch their weights may set another place."""
        return self.device

    def prepare_text(self, text: Tensor, text_mask: Tensor | None = None) -> PreparedText:
        """Project embeddings [B, L, caption channels] with a mask [B, L] (true or 1 = text) once per prompt."""
        check_text(text, text_mask, self.config.caption_channels)
        text, text_mask = without_padding(text, text_mask)
        caption = self.attention_y_norm(
            self.y_embedder.y_proj(text.to(self.compute_device, self.compute_dtype))
        )
        bias = None
        if text_mask is not None:
            padding = ~text_mask.to(self.compute_device, torch.bool)
            bias = (padding.to(self.compute_dtype) * MASKED)[:, None, None, :]
        blocks = cast(Iterable[Block], self.blocks)
        return PreparedText(caption, tuple(block.cross_attn.text_keys(caption) for block in blocks), bias)

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

        `timesteps` [B] or [B, F] in 0..1000, integers or floats (truncated inside). `text` is raw embeddings
        with `text_mask`, or what `prepare_text` made. `memory` is read; `first_frame` is the position of the
        first latent frame in its scene. Raises InputError or StateError before any work.
        """
        prepared = self._prepared(text, text_mask, latents)
        context = self._context(latents, memory, first_frame)
        products = self._products(latents)
        x, time, modulation = self._embed(latents, timesteps, products)
        run = _block_runner(products)
        for index, block in enumerate(self.blocks):
            past = None if memory is None else memory[index]
            x = run(block, x, modulation, prepared.blocks[index], prepared.bias, context, past)[0]
        last = self.final_layer
        fits = products is not None and products.fit(last, ("linear",))
        x = fused_final(last, x, time) if fits else last(x, time, context.frames)
        return self._unpatchify(x, context).to(latents.dtype)

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
        """The memory after clean latents [B, C, F, H, W]: one pass at timestep 0 that returns new tensors only.

        With `window`, the memory looks back on that many chunks instead of on all of them; a memory keeps its window.
        """
        if window is None and memory:
            window = memory_window(memory)
        check_window(memory, window)
        prepared = self._prepared(text, text_mask, latents)
        context = self._context(latents, memory, first_frame)
        products = self._products(latents)
        times = torch.zeros(latents.shape[0], device=latents.device)
        x, _, modulation = self._embed(latents, times, products)
        run, after = _block_runner(products), []
        for index, block in enumerate(self.blocks):
            past = None if memory is None else memory[index]
            x, own, tail = run(block, x, modulation, prepared.blocks[index], prepared.bias, context, past)
            tail = tail.clone()  # owns its memory: the view would keep the whole chunk alive
            after.append(
                first_block_state(own, tail, window) if past is None else past.followed_by(own, tail)
            )
        return tuple(after)

    def kernel_choice(self, device: torch.device, dtype: torch.dtype) -> Choice:
        """Whether the fused kernels run there, why not, and whether in 8 bits. Raises InputError for what was asked for and cannot be."""
        widths = self.config.width, self.config.ffn_hidden
        try:
            return choose(self.kernels, device, dtype, self.config.head_dim, self.precision, widths)
        except ValueError as error:
            raise InputError(str(error)) from error

    def _products(self, latents: Tensor) -> Products | None:
        """Those of fused blocks where the kernels run, which have no gradients; None for blocks as layers.py writes them."""
        if torch.compiler.is_compiling():  # first: what follows is not for a compiler to read
            return None
        learns = latents.requires_grad or any(p.requires_grad for p in self.parameters())
        if learns and torch.is_grad_enabled():
            return None
        device = torch.device(self.compute_device)
        kind = device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            return None  # products that write to a given place know nothing of it
        choice = self.kernel_choice(device, self.compute_dtype)
        if not choice.triton:
            return None
        return (Fp8Products if choice.fp8 else FullProducts)(self.weights_of)

    def _embed(
        self, latents: Tensor, timesteps: Tensor, products: Products | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, N, D], time embedding [B, 1 or F, D] and modulation [B, 1 or F, 6, D]."""
        batch, frames = latents.shape[0], latents.shape[2]
        timesteps = torch.as_tensor(timesteps, device=self.compute_device)
        if timesteps.shape not in ((batch,), (batch, frames)):
            raise InputError(
                f"Timesteps of shape {list(timesteps.shape)} do not fit latents of {batch} clips with {frames} "
                f"latent frames: give one per clip [{batch}] or one per latent frame [{batch}, {frames}]."
            )
        latents = latents.to(self.compute_device, self.compute_dtype)
        patches = self.x_embedder
        if products is not None and products.fit(patches):
            x = fused_patches(patches, latents, products)
        else:
            x = patches(latents)
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
            text = self.prepare_text(text, mask)
        made_for, own = (len(text.blocks), text.caption.shape[-1]), (len(self.blocks), self.config.width)
        if made_for != own:
            raise InputError(
                f"This prepared text is for a model of {made_for[0]} blocks, {made_for[1]} wide, but the model has "
                f"{own[0]}, {own[1]} wide. Prepare the prompt with the model that uses it."
            )
        if text.caption.shape[0] not in (1, latents.shape[0]):
            raise InputError(
                f"{text.caption.shape[0]} prompts do not fit a batch of {latents.shape[0]} clips: "
                "give one prompt, or one for each clip."
            )
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


def _block_runner(products: Products | None) -> Callable[..., tuple[Tensor, Any, Tensor]]:
    """Fused where there are products for it; a block of which somebody changed a part runs as layers.py writes it."""

    def run(block: nn.Module, *given: Any) -> tuple[Tensor, Any, Tensor]:
        if products is not None and products.fit(block):
            return fused_block(cast(Block, block), *given, products=products)
        return block(*given)

    return run
