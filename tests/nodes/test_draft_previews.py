"""The artist's tiny decoder draws what a sampler shows: found, in its own scale, no danger to the work."""

import numpy as np
import pytest
import torch
from comfy import cli_args, latent_formats
from comfyui_sana_video.bridge import live
from comfyui_sana_video.sana_video_core.config import WAN_2_1
from comfyui_sana_video.sana_video_core.files.image_file import to_bytes
from comfyui_sana_video.sana_video_core.vae import tiny_decoder
from comfyui_sana_video.sana_video_core.vae.statistics import to_vae_space
from comfyui_sana_video.sana_video_core.vae.tiny_decoder import LIGHTTAEW2_1, TAEW2_1, TinyDecoder
from safetensors.torch import save_file
from support.artist import demo, folders
from support.tiny_files import SLIM, tiny_weights

WEIGHTS = tiny_weights(widths=SLIM)
LATENTS = torch.randn(2, 16, 1, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    """Empty folders; the artist wants drafts, and the model's latents are Wan's."""
    monkeypatch.setattr(tiny_decoder, "WIDTHS", SLIM)
    monkeypatch.setattr(cli_args.args, "preview_method", cli_args.LatentPreviewMethod.TAESD)
    monkeypatch.setattr(demo().model.model, "latent_format", latent_formats.Wan21())
    with folders(tmp_path):
        yield tmp_path


def _put(base, *names, weights=WEIGHTS):
    folder = base / "models" / "vae_approx"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        save_file(weights, folder / name)


def _picture():
    (picture,) = live._pictures(demo().model)(LATENTS)
    return picture


@pytest.mark.parametrize("kind", [TAEW2_1, LIGHTTAEW2_1])
def test_either_decoder_draws_latents_in_its_own_scale(base, kind):
    _put(base, f"{kind}.safetensors")
    decoder = TinyDecoder(kind)
    decoder.load_state_dict({name: WEIGHTS[name] for name in decoder.state_dict()})
    pixels, _ = decoder.step(to_vae_space(LATENTS[:1], WAN_2_1), None)
    assert np.array_equal(np.asarray(_picture()), to_bytes(pixels[0, :, 0]))


def test_comfyuis_choice_comes_first(base):
    _put(base, "taew2_1.safetensors", "lighttaew2_1.safetensors")
    both = np.asarray(_picture())
    (base / "models" / "vae_approx" / "taew2_1.safetensors").unlink()
    assert np.array_equal(both, np.asarray(_picture()))


def test_without_a_file_or_by_another_setting_it_is_colours(base, monkeypatch):
    assert _picture().size == (4, 3)
    _put(base, "taesd_decoder.safetensors")
    assert _picture().size == (4, 3)
    _put(base, "taew2_1.safetensors")
    assert _picture().size == (32, 24)
    monkeypatch.setattr(cli_args.args, "preview_method", cli_args.LatentPreviewMethod.Latent2RGB)
    assert _picture().size == (4, 3)


def test_latents_of_another_vae_are_not_drafted(base, monkeypatch):
    monkeypatch.undo()  # the demo's own
    monkeypatch.setattr(cli_args.args, "preview_method", cli_args.LatentPreviewMethod.TAESD)
    with folders(base):
        _put(base, "taew2_1.safetensors")
        assert _picture().size == (4, 3)


def test_a_damaged_file_is_told_and_the_preview_has_colours(base, caplog):
    _put(base, "taew2_1.safetensors", weights={"decoder.22.bias": torch.zeros(3)})
    assert _picture().size == (4, 3)
    assert "The preview has no drafts: " in caplog.text
    assert "taew2_1" in caplog.text


def test_memory_that_runs_out_gives_colours(base, monkeypatch):
    _put(base, "taew2_1.safetensors")
    pictures, step = live._pictures(demo().model), TinyDecoder.step

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(TinyDecoder, "step", full)
    assert pictures(LATENTS)[0].size == (4, 3)
    monkeypatch.setattr(TinyDecoder, "step", step)
    assert pictures(LATENTS)[0].size == (32, 24)
