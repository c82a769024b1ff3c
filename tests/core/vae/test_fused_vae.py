"""The fused encoder and decoder against the layers as they are written, on the kernels' plain versions."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.vae import wan_vae
from comfyui_sana_video.sana_video_core.vae.fused_network import FusedNetwork
from comfyui_sana_video.sana_video_core.vae.fused_weights import (
    layer_weights,
    paired_weights,
    subpixel_weight,
)
from support import wan_twins

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def vae() -> wan_vae.WanVAE:
    return wan_twins.twins()[0]


def fused(network) -> FusedNetwork:
    return FusedNetwork(network, layer_weights, CPU, torch.float32)


def near(a, b) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))


@pytest.mark.parametrize("batch", [1, 2])
def test_decoder(vae, batch):
    run, cache, expected_cache = fused(vae.decoder), None, None
    for latent in wan_twins.random_latents(4, 3, 2, batch).split(1, dim=2):
        expected, expected_cache = vae.decoder(latent, expected_cache)
        out, cache = run(latent, cache)
        assert near(out, expected)
        for mine, theirs in zip(cache, expected_cache, strict=True):
            assert near(mine, theirs)


@pytest.mark.parametrize("batch", [1, 2])
def test_encoder(vae, batch):
    run, cache, expected_cache = fused(vae.encoder), None, None
    pixels = wan_twins.random_pixels(9, 3, 2).repeat(batch, 1, 1, 1, 1)
    pixels[-1] *= 0.5
    for piece in pixels.split((1, 4, 4), dim=2):
        expected, expected_cache = vae.encoder(piece, expected_cache)
        out, cache = run(piece, cache)
        assert near(out, expected)
        for mine, theirs in zip(cache, expected_cache, strict=True):
            assert near(mine, theirs)


@pytest.mark.parametrize("combined", [subpixel_weight, paired_weights])
def test_added_taps_are_rounded_once(combined):
    size = (6, 5, 3, 3) if combined is subpixel_weight else (6, 5, 3, 3, 3)
    weight = torch.randn(size, generator=torch.Generator().manual_seed(0)).bfloat16()
    made, exact = (torch.stack([*combined(w)]) for w in (weight, weight.float()))
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, exact.bfloat16())


def test_a_run_has_copies_of_the_weights():
    """A host may lend them in buffers that it fills again."""
    vae = wan_twins.loud(wan_twins.twins()[0])  # a copy
    latent, pixels = wan_twins.random_latents(1, 1, 1), wan_twins.random_pixels(1, 1, 1)
    runs = [(fused(vae.decoder), latent), (fused(vae.encoder), pixels)]
    before = [run(x, None)[0] for run, x in runs]
    for parameter in vae.parameters():
        parameter.zero_()
    assert all(torch.equal(run(x, None)[0], out) for (run, x), out in zip(runs, before, strict=True))
