"""The demo's transformer and text encoder before training."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from torch import nn

from ..demo.text_encoder import build_demo_text_encoder
from ..sana_video_core.config import DEMO
from ..sana_video_core.text.encoder import TextEncoder, load_text_encoder
from ..sana_video_core.transformer.model import SanaVideo
from .flow import Learner


def fresh_learner(
    encoder: TextEncoder, device: torch.device, dtype: torch.dtype, *, seed: int = 0
) -> Learner:
    """Both networks with initial weights that depend only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SanaVideo(DEMO.config, DEMO)
        _initialise(model)
    model = model.to(device, dtype)
    encoder.model.to(device, dtype).train()
    return Learner(model.train(), encoder)


def fresh_encoder(seed: int = 0) -> TextEncoder:
    with tempfile.TemporaryDirectory() as folder:
        build_demo_text_encoder(Path(folder), seed=seed, width=DEMO.config.caption_channels)
        return load_text_encoder(folder)


def _initialise(model: SanaVideo) -> None:
    """Initialise every block close to the identity, and the network to a velocity of zero.

    As the original's `initialize_weights`, except for the scale of the captions.
    """
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.ones_(parameter)
        elif name.endswith("scale_shift_table"):
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif parameter.ndim == 1 or name.endswith(
            ("t_conv.weight", "cross_attn.proj.weight", "final_layer.linear.weight")
        ):
            nn.init.zeros_(parameter)
        elif name.startswith("t_block"):
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.normal_(parameter, std=math.sqrt(1 / parameter[0].numel()))
