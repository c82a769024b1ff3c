"""The two spaces that latents live in.

VAE space is what a VAE reads and writes, and what a LATENT carries. Model space is normalised by the VAE's
means and deviations; the transformer, noise and history live there. A VAE that normalises by itself has one
space only.
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


def _statistics(latents: Tensor, vae: VAESpec) -> tuple[Tensor, Tensor]:
    """Means and deviations that broadcast over latents [B, C, ...]."""
    if latents.ndim < 2 or latents.shape[1] != vae.channels:
        raise InputError(
            f"Latents of the shape {tuple(latents.shape)} were given; {vae.name} latents have {vae.channels} "
            f"channels on the second axis. Use latents of a {vae.name} VAE, or put the channels there."
        )
    values = (vae.means, vae.deviations) if vae.means else ((0.0,), (1.0,))
    statistics = torch.tensor(values, device=latents.device, dtype=torch.float32)
    mean, deviation = statistics.view(2, -1, *(1,) * (latents.ndim - 2))
    return mean, deviation
