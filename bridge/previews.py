"""How latents look in ComfyUI's quick previews: which of its latent formats a family has."""

from __future__ import annotations

import comfy.latent_formats

from ..sana_video_core.config import DEMO, Family


class DemoLatents(comfy.latent_formats.Wan21):
    """Wan's channels, means and deviations, but not its colours. The weights are fitted by `training/previews.py`."""

    latent_rgb_factors = [  # noqa: RUF012  what ComfyUI's previewer expects
        [-0.2241, -0.5411, 0.6148],
        [0.6878, -0.4570, -0.8444],
        [-0.4292, -0.2480, 0.4858],
        [0.1236, -0.4752, -0.2586],
        [0.0198, 0.1573, 0.5296],
        [-0.3231, 1.0870, 0.2477],
        [0.2911, -0.1630, -0.0602],
        [-0.9796, 0.7051, 0.7224],
        [0.5074, 0.4998, -0.4521],
        [0.2706, -0.4919, -0.5736],
        [0.0242, -0.5957, -0.1437],
        [-0.0371, -0.1810, -0.2455],
        [-0.2957, -0.0143, 0.3410],
        [0.9453, -0.6657, -0.9751],
        [0.2553, -0.6068, -0.0116],
        [-0.2332, -0.6544, 0.4863],
    ]
    latent_rgb_factors_bias = [-0.5590, -0.5063, -0.4174]  # noqa: RUF012


def latent_format(family: Family) -> comfy.latent_formats.LatentFormat:
    if family.name == DEMO.name:
        return DemoLatents()
    return comfy.latent_formats.Wan21() if family.config.channels == 16 else comfy.latent_formats.LTXV()
