"""ComfyUI's quick previews: which of its latent formats a family uses."""

from __future__ import annotations

import comfy.latent_formats
import latent_preview
import numpy as np
import torch

from ..sana_video_core.config import DEMO, LTX_2, LTX_2_3, WAN_2_1, Family
from ..sana_video_core.streaming.report import filmstrip
from ..sana_video_core.streaming.state import Story


class DemoLatents(comfy.latent_formats.Wan21):
    """Wan's channels, means and deviations with the demo's colours, fitted by `training/previews.py`."""

    latent_rgb_factors = [  # noqa: RUF012  what ComfyUI's previewer expects
        [-0.2218, -0.5703, 0.5812],
        [0.6933, -0.4556, -0.8174],
        [-0.4194, -0.1835, 0.6265],
        [0.1589, -0.5924, -0.2771],
        [0.0419, 0.0481, 0.4641],
        [-0.3058, 1.0066, 0.2041],
        [0.2672, -0.0904, -0.0578],
        [-0.9817, 0.7110, 0.7217],
        [0.5343, 0.4237, -0.4462],
        [0.3248, -0.6518, -0.5717],
        [-0.0061, -0.3738, 0.0542],
        [-0.0314, -0.2111, -0.2655],
        [-0.3076, -0.0304, 0.2638],
        [0.9295, -0.5998, -0.9465],
        [0.2556, -0.6227, -0.0341],
        [-0.1988, -0.7719, 0.4640],
    ]
    latent_rgb_factors_bias = [-0.5588, -0.5074, -0.4183]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.taesd_decoder_name = None  # Wan's draft decoders don't know the demo's latents


# by the name of a family's VAE
FORMATS = {
    WAN_2_1.name: comfy.latent_formats.Wan21,
    LTX_2.name: comfy.latent_formats.LTXV,
    LTX_2_3.name: comfy.latent_formats.LTXV,
}


def latent_format(family: Family) -> comfy.latent_formats.LatentFormat:
    return (DemoLatents if family.name == DEMO.name else FORMATS[family.vae.name])()


def filmstrip_of(state: Story) -> torch.Tensor:
    """One picture [1, H, W, 3] in [0, 1] with a cell per chunk, in ComfyUI's quick estimate of colours."""
    latents = latent_format(state.identity.rules)
    previewer = latent_preview.Latent2RGBPreviewer(
        latents.latent_rgb_factors, latents.latent_rgb_factors_bias
    )
    sheet = filmstrip(state, previewer.decode_latent_to_preview)
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]
