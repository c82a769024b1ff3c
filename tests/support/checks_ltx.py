"""Checks of LTX-2's VAEs against golden tensors of diffusers. Each takes a Pack and asserts."""

from __future__ import annotations

from functools import cache

import torch
from support.ltx_twins import SAMPLED, SIZES, VERSIONS, golden, latents, pixels, weights
from support.pack import Pack, assert_close

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-5}
EXPECTED = cache(golden)


def network(pack: Pack, version: str, dtype: torch.dtype = torch.float64, **sizes):
    config = pack.core("vae.ltx_config").LtxConfig(**SIZES[version] | sizes)
    vae = pack.core("vae.ltx_vae").LtxVAE(config).to(dtype)
    vae.load_state_dict(weights(version))
    return vae.requires_grad_(False)


def encoding(pack: Pack, dtype: torch.dtype = torch.float64) -> None:
    for version in VERSIONS:
        z = network(pack, version, dtype).encode(pixels(17).to(dtype))
        _check(z, EXPECTED()[f"{version}.encoded"], dtype)


def decoding(pack: Pack, dtype: torch.dtype = torch.float64) -> None:
    for version in VERSIONS:
        frames = network(pack, version, dtype).decode_stream(latents(3).to(dtype))
        _check(torch.cat([*frames], 2)[SAMPLED], EXPECTED()[f"{version}.decoded.symmetric"], dtype)


def causal_decoding(pack: Pack, dtype: torch.dtype = torch.float64) -> None:
    """The first latent frame is one frame, later ones eight, each as soon as its latent frame is there."""
    for version in VERSIONS:
        frames = [*network(pack, version, dtype, causal=True).decode_stream(latents(3).to(dtype))]
        assert [part.shape[2] for part in frames] == [1, 8, 8]
        _check(torch.cat(frames, 2)[SAMPLED], EXPECTED()[f"{version}.decoded.causal"], dtype)


def _check(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert actual.shape == expected.shape
    assert_close(actual, expected, TOLERANCE[dtype])


LTX_CHECKS = (encoding, decoding, causal_decoding)
