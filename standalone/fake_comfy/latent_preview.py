"""Small pictures of latents, by one matrix."""

import torch
from PIL import Image


class Latent2RGBPreviewer:
    def __init__(self, latent_rgb_factors, latent_rgb_factors_bias=None):
        self.factors, self.bias = (
            torch.tensor(latent_rgb_factors),
            torch.tensor(latent_rgb_factors_bias or [0.0] * 3),
        )

    def decode_latent_to_preview(self, x0):
        """The first frame of latents [B, C, F, H, W]."""
        pixels = x0[0, :, 0].movedim(0, -1).float().cpu() @ self.factors + self.bias
        return Image.fromarray(((pixels + 1) / 2).clamp(0, 1).mul(255).byte().numpy())

    def decode_latent_to_preview_image(self, preview_format, x0):
        return "JPEG", self.decode_latent_to_preview(x0), 512


def get_previewer(device, latent_format):
    factors = latent_format.latent_rgb_factors
    return Latent2RGBPreviewer(factors, latent_format.latent_rgb_factors_bias) if factors else None
