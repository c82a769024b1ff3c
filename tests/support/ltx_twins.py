"""What tests of LTX-2's VAEs share: narrow ones of the published structures, with random weights.

`python tests/support/ltx_twins.py` made data/ltx_golden.safetensors with diffusers 0.42.1 in float64.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from comfyui_sana_video.sana_video_core.checkpoints.ltx_names import canonical_ltx
from comfyui_sana_video.sana_video_core.vae.ltx_config import BOTH, SPACE, TIME, LtxConfig
from comfyui_sana_video.sana_video_core.vae.ltx_vae import LtxVAE
from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "ltx_golden.safetensors"
KEYMAP = DATA / "ltx2_vae_keymap.json"
VERSIONS = ("ltx2", "ltx23")
CHANNELS = 4
SIZES: dict[str, dict[str, Any]] = {
    "ltx2": {
        "latent_channels": CHANNELS,
        "encoder_widths": (4, 8, 16, 32, 64),
        "encoder_blocks": (1, 2, 1, 1, 1),
        "decoder_widths": (64, 32, 16, 8),
        "decoder_blocks": (1, 1, 2, 1),
    },
    "ltx23": {
        "latent_channels": CHANNELS,
        "encoder_widths": (4, 8, 16, 32, 32),
        "encoder_blocks": (1, 2, 1, 1, 1),
        "decoder_widths": (64, 32, 32, 16, 8),
        "decoder_blocks": (1, 1, 1, 2, 1),
        "ups": (BOTH, BOTH, TIME, SPACE),
    },
}
NAMES = {SPACE: "spatial", TIME: "temporal", BOTH: "spatiotemporal"}
SAMPLED = (..., slice(None, None, 3), slice(None, None, 5))  # of the golden pixels, any place of a patch


def sizes(version: str, **other: Any) -> LtxConfig:
    return LtxConfig(**SIZES[version] | other)


@cache
def weights(version: str, channels: int = CHANNELS, seed: int = 0) -> dict[str, Tensor]:
    """Under the original's names, float32. What comes first is so quiet that the norms' epsilon counts."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    shapes = LtxVAE(sizes(version, latent_channels=channels), device="meta").state_dict()
    for name, like in sorted(shapes.items()):
        values = torch.randn(like.shape, generator=generator)
        if "std-of-means" in name:
            values = 0.5 + values.abs()
        elif like.ndim == 5:
            values *= like[0].numel() ** -0.5 * (1e-4 if "conv_in" in name else 1)
        elif "conv_in" in name:
            values *= 1e-5
        else:
            values *= 0.2
        made[name] = values
    return made


def ours(version: str, dtype: torch.dtype = torch.float32, **other: Any) -> LtxVAE:
    config = sizes(version, **other)
    network = LtxVAE(config).to(dtype)
    network.load_state_dict(weights(version, config.latent_channels))
    return network.eval().requires_grad_(False)


@cache
def theirs(version: str, causal: bool) -> Any:
    """diffusers' class with the same weights, in float64."""
    from diffusers import AutoencoderKLLTX2Video

    config = sizes(version)
    ups = len(config.ups)
    vae = AutoencoderKLLTX2Video(
        latent_channels=CHANNELS,
        block_out_channels=config.encoder_widths[1:],
        down_block_types=("LTX2VideoDownBlock3D",) * 4,
        decoder_block_out_channels=config.decoder_widths[-2::-1],
        layers_per_block=config.encoder_blocks,
        decoder_layers_per_block=config.decoder_blocks[::-1],
        spatio_temporal_scaling=(True,) * 4,
        decoder_spatio_temporal_scaling=(True,) * ups,
        decoder_inject_noise=(False,) * (ups + 1),
        downsample_type=tuple(NAMES[step] for step in config.downs),
        upsample_type=tuple(NAMES[step] for step in config.ups),
        upsample_residual=(config.shortcut,) * ups,
        upsample_factor=upsample_factors(config),
        timestep_conditioning=False,
        encoder_causal=True,
        decoder_causal=causal,
        encoder_spatial_padding_mode="zeros",
        decoder_spatial_padding_mode=config.padding,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).double()
    vae.load_state_dict(in_diffusers_spelling(weights(version), vae.state_dict()))
    return vae.eval().requires_grad_(False)


def upsample_factors(config: LtxConfig) -> tuple[int, ...]:
    """By how much each step up narrows the network, the coarsest last."""
    pairs = zip(config.decoder_widths, config.decoder_widths[1:], strict=False)
    return tuple(wide // narrow for wide, narrow in pairs)[::-1]


def in_diffusers_spelling(tensors: dict[str, Tensor], names: Any) -> dict[str, Tensor]:
    return {theirs: tensors[own] for own, theirs in canonical_ltx({name: name for name in names}).items()}


def pixels(frames: int, rows: int = 2, columns: int = 3, batch: int = 1) -> Tensor:
    """[batch, 3, frames, 32 rows, 32 columns], float64, uniform between -1 and 1."""
    generator = torch.Generator().manual_seed(frames)
    size = (batch, 3, frames, 32 * rows, 32 * columns)
    return 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1


def latents(length: int, rows: int = 2, columns: int = 3, batch: int = 1, channels: int = CHANNELS) -> Tensor:
    """[batch, channels, length, rows, columns], float64."""
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, channels, length, rows, columns, generator=generator, dtype=torch.float64)


def encoded_by_theirs(version: str, x: Tensor) -> Tensor:
    vae = theirs(version, False)
    mean, deviation = (t[:, None, None, None] for t in (vae.latents_mean, vae.latents_std))
    return (vae.encode(x).latent_dist.mode() - mean) / deviation


def decoded_by_theirs(version: str, z: Tensor, *, causal: bool = False) -> Tensor:
    """Clamped."""
    vae = theirs(version, causal)
    mean, deviation = (t[:, None, None, None] for t in (vae.latents_mean, vae.latents_std))
    return vae.decode(z * deviation + mean).sample.clamp(-1, 1)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors of the same shape."""
    assert one.shape == other.shape
    return (one.double() - other.double()).abs().max().item()


def published_config(config: LtxConfig) -> str:
    """The JSON that original files carry in their metadata."""
    names = {SPACE: "compress_space", TIME: "compress_time", BOTH: "compress_all"}

    def blocks(counts: tuple[int, ...], steps: Any, widths: tuple[int, ...], suffix: str, more: Any) -> list:
        made: list[Any] = [["res_x", {"num_layers": counts[0]}]]
        for place, step in enumerate(steps):
            factor = max(widths[place : place + 2]) // min(widths[place : place + 2])
            made.append([names[step] + suffix, {"multiplier": factor} | more])
            made.append(["res_x", {"num_layers": counts[place + 1]}])
        return made

    up = {"residual": True} if config.shortcut else {}
    decoder = blocks(config.decoder_blocks, config.ups, config.decoder_widths, "", up)
    entries = {
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": config.latent_channels,
        "encoder_blocks": blocks(config.encoder_blocks, config.downs, config.encoder_widths, "_res", {}),
        "decoder_blocks": decoder[::-1],
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "causal_decoder": config.causal,
        "timestep_conditioning": False,
        "encoder_base_channels": config.encoder_widths[0],
        "decoder_base_channels": config.decoder_widths[-1],
        "_class_name": "CausalVideoAutoencoder",
        "scaling_factor": 1.0,
    } | ({} if config.shortcut else {"spatial_padding_mode": "zeros"})
    return json.dumps({"vae": entries})


def ltx_file(path: Path, version: str = "ltx2", *, channels: int = 128, seed: int = 0) -> Path:
    """A narrow VAE in the format of the published files, of as many latent channels as theirs."""
    config = sizes(version, latent_channels=channels)
    tensors = {name: tensor.bfloat16() for name, tensor in weights(version, channels, seed).items()}
    save_file(tensors, path, {"config": published_config(config)})
    return path


def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def _make_golden() -> None:
    made = {}
    for version in VERSIONS:
        made[f"{version}.encoded"] = encoded_by_theirs(version, pixels(17))
        for causal in (False, True):
            kind = "causal" if causal else "symmetric"
            frames = decoded_by_theirs(version, latents(3), causal=causal)
            made[f"{version}.decoded.{kind}"] = frames[SAMPLED]
    save_file({name: tensor.float().contiguous() for name, tensor in made.items()}, GOLDEN)


if __name__ == "__main__":
    _make_golden()
