"""What tests of the Wan VAE share: our network and diffusers' with the same weights, and clips to run.

The networks are narrow and random, with gammas away from 1, so that every weight counts.
"""

import json
from functools import cache
from pathlib import Path

import torch
from comfyui_sana_video.sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from diffusers import AutoencoderKLWan

KEYMAP: dict[str, str] = json.loads((Path(__file__).parents[1] / "data" / "wan_vae_keymap.json").read_text())
WIDTH = 8
TOLERANCE = 1e-4


@cache
def twins() -> tuple[WanVAE, AutoencoderKLWan]:
    """Our network and diffusers'."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        theirs = AutoencoderKLWan(base_dim=WIDTH).eval()
        for name, parameter in theirs.named_parameters():
            if name.endswith("gamma"):
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    ours = WanVAE(VAEConfig(base_width=WIDTH))
    ours.load_state_dict({KEYMAP[name]: tensor for name, tensor in theirs.state_dict().items()})
    return ours.requires_grad_(False), theirs.requires_grad_(False)


def loud(vae: WanVAE) -> WanVAE:
    """A copy whose pixels go far beyond [-1, 1]."""
    copy = WanVAE(vae.config)
    copy.load_state_dict(vae.state_dict())
    copy.requires_grad_(False).decoder.head[2].weight.mul_(10)
    return copy


def random_pixels(frames: int, rows: int, columns: int, batch: int = 1) -> torch.Tensor:
    """[batch, 3, frames, 8 rows, 8 columns], uniform between -1 and 1."""
    generator = torch.Generator().manual_seed(frames)
    return 2 * torch.rand(batch, 3, frames, 8 * rows, 8 * columns, generator=generator) - 1


def random_latents(length: int, rows: int, columns: int, batch: int = 1) -> torch.Tensor:
    """[batch, 16, length, rows, columns]."""
    generator = torch.Generator().manual_seed(length)
    return 2 * torch.randn(batch, 16, length, rows, columns, generator=generator)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two tensors of the same shape."""
    assert one.shape == other.shape
    return (one - other).abs().max().item()


def decoded(stream):
    """Everything that a stream yields, joined, and the cache that it returns."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return torch.cat(pieces, dim=2), end.value
