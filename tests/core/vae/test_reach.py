"""From where a decoder has to begin: there the frames are those of the whole, and one later they aren't."""

import pytest
import torch
from comfyui_sana_video.demo.model_set import demo_set, seeded
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.sana_video_core.vae.fused_network import FusedNetwork
from comfyui_sana_video.sana_video_core.vae.fused_weights import layer_weights
from comfyui_sana_video.sana_video_core.vae.reach import decoder_reach
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling
from comfyui_sana_video.sana_video_core.vae.tiny_decoder import KINDS, TinyDecoder
from comfyui_sana_video.sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from support.tiny_files import SLIM, tiny_weights

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


def _wan(**sizes):
    return seeded(WanVAE(VAEConfig(base_width=2, **sizes)), 0)


def _fused():
    vae = _wan()
    vae._runner = lambda network, x: FusedNetwork(network, layer_weights, CPU, torch.float32)
    return vae


def _tiny(kind, monkeypatch):
    monkeypatch.setattr("comfyui_sana_video.sana_video_core.vae.tiny_decoder.WIDTHS", SLIM)
    decoder = TinyDecoder(kind)
    decoder.load_state_dict(
        {name: t for name, t in tiny_weights(widths=SLIM).items() if name.startswith("decoder")}
    )
    return decoder


CASES = {
    "as published": (lambda _: _wan(), 38, None),
    "fewer blocks": (lambda _: _wan(blocks=1), 30, None),
    "fused": (lambda _: _fused(), 38, None),
    "in tiles": (lambda _: _wan(blocks=1), 30, Tiling(tile=2, overlap=1)),
    "taew2_1": (lambda patch: _tiny(KINDS[0], patch), 8, None),
    "lighttaew2_1 in tiles": (lambda patch: _tiny(KINDS[1], patch), 8, Tiling(tile=2, overlap=1)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_decoder_that_begins_at_its_reach_shows_the_same_and_a_later_one_does_not(case, monkeypatch):
    make, reach, tiling = CASES[case]
    vae = make(monkeypatch)
    assert decoder_reach(vae) == reach
    latents = _latents(2 + reach + 1)
    whole = _last_frames(vae, latents, tiling)
    assert torch.equal(_last_frames(vae, latents[:, :, 2:], tiling), whole)
    assert not torch.equal(_last_frames(vae, latents[:, :, 3:], tiling), whole)


def test_the_demos_vae():
    """Its training has made the past weak: only what is proven is tried."""
    vae = load_vae(demo_set().vae, dtype=torch.float32)
    assert decoder_reach(vae) == 38
    latents = _latents(1 + 38 + 1)
    assert torch.equal(_last_frames(vae, latents[:, :, 1:]), _last_frames(vae, latents))


def test_of_others_it_is_unknown():
    assert decoder_reach(torch.nn.Identity()) is None


def _latents(length):
    return torch.randn(1, 16, length, 3, 1, generator=torch.Generator().manual_seed(1))


def _last_frames(vae, latents, tiling=None):
    """Those of the last latent frame."""
    *_, last = vae.decode_stream(latents, tiling=tiling)
    return last
