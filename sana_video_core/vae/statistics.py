"""The two spaces that latents live in.

VAE space is what a VAE reads and writes, and what a LATENT carries. Model space is normalised by the VAE's
means and deviations; the transformer, noise and history live there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import VAESpec
from ..errors import InputError


def to_model_space(latents: Tensor, vae: VAESpec) -> Tensor:
    """VAE space -> model space, [B, C, ...] -> float32. Raises InputError for another VAE's latents."""
    means, deviations = _statistics(latents, vae)
    return (latents.float() - means) / deviations


def to_vae_space(latents: Tensor, vae: VAESpec) -> Tensor:
    """Model space -> VAE space, [B, C, ...] -> float32. Raises InputError for another VAE's latents."""
    means, deviations = _statistics(latents, vae)
    return latents.float() * deviations + means


def _statistics(latents: Tensor, vae: VAESpec) -> Tensor:
    """Means and deviations, stacked, that broadcast over latents [B, C, ...]."""
    if not vae.means:
        raise InputError(
            f"The statistics of the {vae.name} VAE are in its own file, which isn't read here. "
            "Decode these latents with ComfyUI's VAE Decode."
        )
    if latents.ndim < 2 or latents.shape[1] != vae.channels:
        raise InputError(
            f"Latents of the shape {tuple(latents.shape)} were given; {vae.name} latents have {vae.channels} "
            f"channels on the second axis. Use latents of a {vae.name} VAE, or put the channels there."
        )
    statistics = torch.tensor((vae.means, vae.deviations), device=latents.device, dtype=torch.float32)
    return statistics.view(2, vae.channels, *(1,) * (latents.ndim - 2))
