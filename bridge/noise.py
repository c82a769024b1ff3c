"""Noise for ComfyUI's custom samplers as the original draws it: on the GPU, one draw for the whole clip."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..sana_video_core.config import NOISE_DEVICES, check_choice
from ..sana_video_core.sampling.one_shot import check_latents


class ClipNoise:
    """What a NOISE socket carries: samplers ask it for noise of their latent's shape."""

    def __init__(self, seed: int, device: str, latent: dict[str, Any] | None) -> None:
        check_choice("device", device, NOISE_DEVICES)
        self.seed, self.device = seed, device
        self.given: Tensor | None = None if latent is None else latent["samples"]

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """[B, C, F, H, W], float32 on the CPU. Raises InputError if a given latent doesn't fit."""
        shape = tuple(input_latent["samples"].shape)
        if self.given is not None:
            check_latents("The noise", self.given, shape)
            return self.given.float().cpu().expand(shape).clone()
        device = torch.device("cpu")
        if self.device == NOISE_DEVICES[0]:
            device = comfy.model_management.get_torch_device()
        generator = torch.Generator(device=device).manual_seed(self.seed)
        return torch.randn(shape, generator=generator, device=device).cpu()
