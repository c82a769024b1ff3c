"""“demo (built in)” loads the trained set, which reads prompts as they are."""

import logging

import latent_preview
import numpy as np
import pytest
import torch
from comfyui_sana_video.bridge import text_encoders
from comfyui_sana_video.bridge.previews import latent_format
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.sana_video_core.config import DEMO as FAMILY
from comfyui_sana_video.sana_video_core.config import WAN_2_1, family_named
from comfyui_sana_video.sana_video_core.text import encoder as encoder_module
from comfyui_sana_video.sana_video_core.text.prompt import prompt_digest
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space
from support.artist import DEMO, run
from support.pack import same


def test_the_trained_models_make_a_chunk():
    model = run("ModelLoader", DEMO, "auto")
    assert model.model.diffusion_model.config == FAMILY.config
    assert model.model.diffusion_model.family is FAMILY
    positive = run("TextEncode", run("TextEncoderLoader", DEMO), "a red ball moves right", 0, True)
    state = run("Start", model, 64, 48, 1)
    latent, state, frames = run("BlockSampler", model, positive, state, 1, 3, 1, "few_step", "recache")
    assert (frames, state.state.frames) == (41, 41)
    images = run("Decode", run("VAELoader", DEMO), latent, state)
    assert images.shape == (41, 48, 64, 3)
    assert images.isfinite().all()


@pytest.mark.parametrize("known", [None, "Make it good: "], ids=["none known", "one known"])
def test_the_system_prompt_changes_nothing(monkeypatch, caplog, known):
    """Neither the embeddings nor the prompt's digest; and nobody is warned that there is none."""
    encoder_module._warn_no_system_prompt.cache_clear()
    for module in (encoder_module, text_encoders):
        monkeypatch.setattr(module, "find_system_prompt", lambda **_: known)
    encoder = run("TextEncoderLoader", DEMO)
    with caplog.at_level(logging.WARNING):
        on, off = (run("TextEncode", encoder, "a ball", 10, instruction)[0] for instruction in (True, False))
    assert not caplog.records
    assert same(on[0], off[0])
    assert same(on[1]["attention_mask"], off[1]["attention_mask"])
    plain = prompt_digest("a ball", system_prompt=None, motion_score=10)
    assert on[1]["sana_digest"] == off[1]["sana_digest"] == plain


def test_quick_previews_show_its_colours():
    """ComfyUI's previewer shows a red shape in the middle of a blue floor from the demo's latents of it."""
    pixels = torch.tensor([0.12, 0.20, 0.42]).view(1, 3, 1, 1, 1).expand(1, 3, 9, 64, 64).clone()
    pixels[..., 16:48, 16:48] = torch.tensor([0.90, 0.16, 0.16]).view(3, 1, 1, 1)
    with torch.no_grad():
        latents = to_model_space(
            load_vae(demo_set().vae, dtype=torch.float32).encode(2 * pixels - 1), WAN_2_1
        )
    colours = latent_format(FAMILY)
    previewer = latent_preview.Latent2RGBPreviewer(
        colours.latent_rgb_factors, colours.latent_rgb_factors_bias
    )
    seen = np.asarray(previewer.decode_latent_to_preview(latents[:, :, -1:]), dtype=float) / 255
    assert np.abs(seen[3:5, 3:5].mean((0, 1)) - (0.90, 0.16, 0.16)).max() < 0.25
    assert np.abs(seen[0, 0] - (0.12, 0.20, 0.42)).max() < 0.2


@pytest.mark.parametrize(
    ("family", "kind"), [("longsana_480p", "Wan21"), ("sana_video_720p", "LTXV"), ("demo", "DemoLatents")]
)
def test_every_family_has_the_previews_of_its_vae(family, kind):
    assert type(latent_format(family_named(family))).__name__ == kind
