"""A GPU too small for whole pictures: decoding continues in tiles, and no frame is lost or doubled."""

import logging

import pytest
import torch
from comfyui_sana_video.bridge.vaes import load_vae, vae_of
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling


@pytest.fixture
def vae():
    return vae_of(load_vae(demo_set().vae))


@pytest.fixture(scope="module")
def pictures():
    """Latents, their frames whole, and their frames in tiles."""
    latents = torch.randn(1, 16, 5, 40, 6, generator=torch.Generator().manual_seed(0))
    vae = vae_of(load_vae(demo_set().vae)).network
    whole, tiled = (torch.cat(list(vae.decode_stream([latents], tiling=t)), dim=2) for t in (None, Tiling()))
    return latents, whole, tiled


@pytest.mark.parametrize("at", [0, 2, 4])
def test_short_memory_continues_in_tiles(vae, pictures, monkeypatch, caplog, at):
    latents, whole, tiled = pictures
    step, calls = type(vae.network).decode_frame, []

    def short(self, latent, cache, run=None):
        calls.append(latent.shape)
        if latent.shape[-2] == 40 and len(calls) > at:
            raise torch.OutOfMemoryError("no room")
        return step(self, latent, cache, run)

    monkeypatch.setattr(type(vae.network), "decode_frame", short)
    with caplog.at_level(logging.WARNING):
        frames = torch.cat(list(vae.decode_stream(latents.split((3, 2), dim=2))), dim=2)
    assert "in tiles" in caplog.text
    made = max(0, 4 * at - 3)
    assert torch.equal(frames[:, :, :made], whole[:, :, :made])
    assert torch.equal(frames[:, :, made:], tiled[:, :, made:])
    assert not torch.equal(whole, tiled)


def test_enough_memory_takes_whole_pictures(vae, caplog):
    latents = torch.randn(1, 16, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    frames = torch.cat(list(vae.decode_stream([latents])), dim=2)
    assert torch.equal(frames, vae.network.decode(latents))
    assert not caplog.text
