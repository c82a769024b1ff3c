"""Small pictures of latents, by one matrix."""

import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image

default_preview_method = args.preview_method
MAX_PREVIEW_RESOLUTION = args.preview_size


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
        return "JPEG", self.decode_latent_to_preview(x0), MAX_PREVIEW_RESOLUTION


class TAEHVPreviewerImpl:
    """Draft decoders, of which this host has none."""


def get_previewer(device, latent_format):
    """None where the artist wants no previews, or there are no colours."""
    if args.preview_method == LatentPreviewMethod.NoPreviews or not latent_format.latent_rgb_factors:
        return None
    return Latent2RGBPreviewer(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias)


def set_preview_method(override=None):
    """What a prompt brings along; None or "default" is what ComfyUI was started with."""
    args.preview_method = LatentPreviewMethod.from_string(override) or default_preview_method
