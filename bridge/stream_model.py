"""A MODEL as a stream or a clip calls it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ..sana_video_core.errors import InputError
from ..sana_video_core.shapes import LatentGrid
from ..sana_video_core.transformer.maker import Maker, maker_of
from ..sana_video_core.transformer.memory import Memory
from ..sana_video_core.transformer.model import PreparedText
from .changes import STEP_CACHES, NamedChanges, stream_options, unnamed_changes
from .model import SanaVideoModel, load_patcher
from .networks import Absorb, Result, StreamCall, Velocity

logger = logging.getLogger("sana_video")


class HostedModel:
    """A MODEL as a stream or a clip calls it. Clones share a module, so make a new one in every execute."""

    def __init__(self, patcher: Any) -> None:
        if not isinstance(getattr(patcher, "model", None), SanaVideoModel):
            raise InputError(
                f"This MODEL is a {type(getattr(patcher, 'model', patcher)).__name__}, not SANA-Video. "
                "Load the file with Load SANA-Video Model: "
                "ComfyUI's own Load Diffusion Model takes SANA's files for another network."
            )
        self.patcher, network = patcher, patcher.model.diffusion_model
        self.config, self.family, self.fingerprint = network.config, network.family, network.fingerprint
        self._options = stream_options(patcher)

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    @property
    def dtype(self) -> torch.dtype:
        return self.patcher.model.get_dtype_inference()

    @property
    def maker(self) -> Maker:
        """This MODEL with its LoRAs, as far as they are known."""
        named = NamedChanges.of(self.patcher)
        unnamed = "" if named.whole else f"patches {self.patcher.patches_uuid}"
        return maker_of(self.patcher.model.diffusion_model, named.loras, unnamed)

    @property
    def file(self) -> Path | None:
        """The file or folder that it was loaded from; None if another pack made this MODEL."""
        load, *rest = self.patcher.cached_patcher_init or (None,)
        return rest[0][0] if load is load_patcher else None

    @property
    def unnamed_changes(self) -> str | None:
        """What else changes what this MODEL computes in a stream, in words; None for nothing."""
        return unnamed_changes(self.patcher)

    def warn_of_step_caches(self) -> None:
        """Say that a node's step cache does nothing here."""
        options = self.patcher.model_options["transformer_options"]
        if any(cache in options for cache in STEP_CACHES):
            logger.warning(
                "A step cache (EasyCache, LazyCache) on this MODEL does nothing in a stream: "
                "there are too few steps to skip one."
            )

    def state_dict(self) -> dict[str, Tensor]:
        return self.patcher.model.diffusion_model.state_dict()

    def prepare_text(self, text: Tensor, text_mask: Tensor | None = None) -> PreparedText:
        return self.patcher.model.diffusion_model.prepare_text(text, text_mask)

    def __call__(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: PreparedText,
        *,
        memory: Memory | None = None,
        first_frame: int = 0,
    ) -> Tensor:
        return self._run(Velocity(text, memory, first_frame), latents, timesteps)

    def absorb(
        self,
        latents: Tensor,
        text: PreparedText,
        *,
        memory: Memory | None,
        first_frame: int,
        window: int | None,
    ) -> Memory:
        timesteps = torch.zeros(len(latents), device=latents.device)
        return self._run(Absorb(text, memory, first_frame, window), latents, timesteps)

    def _run(self, stream: StreamCall[Result], latents: Tensor, timesteps: Tensor) -> Result:
        """One call inside the nodes' wrappers. torch.compile's replaces our module while they run."""
        base, extension = self.patcher.model, comfy.patcher_extension

        def call(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
            return base.diffusion_model(
                x, t, context=c_crossattn, control=control, transformer_options=transformer_options, **kwargs
            )

        wrappers = extension.get_all_wrappers(extension.WrappersMP.APPLY_MODEL, self._options)
        executor = extension.WrapperExecutor.new_class_executor(call, base, wrappers)
        return executor.execute(latents, timesteps, None, None, None, self._options, stream=stream)

    def memory_for(self, batch: int, grid: LatentGrid, latent_frames: int | None = None) -> int:
        """Bytes that a pass over so many latent frames takes beside the weights; None: over a chunk."""
        frames = latent_frames or self.family.chunks.first
        return self.patcher.memory_required([batch, self.config.channels, frames, *grid])

    def load(self, batch: int, grid: LatentGrid, latent_frames: int | None = None) -> None:
        """Load this clone's weights, with room for a pass. In every execute: clones share a module."""
        needed = self.memory_for(batch, grid, latent_frames)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)
