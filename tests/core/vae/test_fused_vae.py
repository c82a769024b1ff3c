"""The fused encoder and decoder against the layers as they are written, on the kernels' plain versions."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.vae import wan_vae
from comfyui_sana_video.sana_video_core.vae.fused_network import FusedNetwork
from comfyui_sana_video.sana_video_core.vae.fused_weights import layer_weights
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
