"""The colours of the demo's quick previews are those that its VAE's latents have."""

import torch
from comfyui_sana_video.bridge.previews import DemoLatents
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.training.previews import fitted, of_a_shape, seen


def test_what_the_bridge_holds_shows_a_story_that_was_not_fitted():
    latents, colours = seen(load_vae(demo_set().vae, dtype=torch.float32), [1000])
    held = torch.tensor([*DemoLatents.latent_rgb_factors, DemoLatents.latent_rgb_factors_bias])
    errors = (latents @ held - colours).abs()
    shape = of_a_shape(colours, 1)
    assert 0.005 < shape.float().mean() < 0.2
    assert errors[~shape].mean() < 0.25
    assert errors[shape].mean() < 0.45


def test_a_fit_weighs_a_shape_as_much_as_a_floor():
    generator = torch.Generator().manual_seed(0)
    latents = torch.cat([torch.randn(200, 4, generator=generator), torch.ones(200, 1)], dim=1)
    weights = torch.randn(5, 3, generator=generator)
    shape = torch.arange(200) < 20
    assert torch.allclose(fitted(latents, latents @ weights, shape), weights, atol=1e-4)
    only_bias = fitted(latents[:, 4:], shape[:, None].float().expand(-1, 3), shape)
    assert torch.allclose(only_bias, torch.full((1, 3), 0.5), atol=1e-5)
