"""Small pictures of latents by one matrix, and the matrix of a VAE that nobody has one for."""

import numpy as np
import torch
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.sana_video_core.config import WAN_2_1
from comfyui_sana_video.sana_video_core.files.image_file import to_bytes
from comfyui_sana_video.sana_video_core.vae.colours import fit_colours, latent_pictures
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space


def test_pictures_of_latents_are_their_channels_weighed():
    latents = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    colours = torch.zeros(17, 3)
    colours[5, 0], colours[7, 2], colours[16, 1] = 0.3, -0.2, 0.5
    pictures = latent_pictures(latents, colours)
    assert [picture.size for picture in pictures] == [(6, 4)] * 3
    for index, picture in enumerate(pictures):
        red, blue = 0.3 * latents[0, 5, index], -0.2 * latents[0, 7, index]
        pixels = torch.stack([red, torch.full_like(red, 0.5), blue])
        assert np.array_equal(np.asarray(picture), to_bytes(pixels))


def test_colours_of_a_vae_are_found():
    """A red shape in the middle of a blue floor is seen as that, from the demo's latents of it."""
    vae = load_vae(demo_set().vae, dtype=torch.float32)
    colours = fit_colours(vae.encode, WAN_2_1, "cpu")
    assert colours.shape == (17, 3)
    frames = torch.tensor([-0.6, -0.4, 0.6])[None, :, None, None, None].repeat(1, 1, 5, 128, 128)
    frames[:, :, :, 40:88, 40:88] = torch.tensor([0.8, -0.7, -0.7])[None, :, None, None, None]
    with torch.no_grad():
        latents = to_model_space(vae.encode(frames), WAN_2_1)
    picture = np.asarray(latent_pictures(latents, colours)[1], dtype=float)
    inside, corner = picture[7:9, 7:9].mean((0, 1)), picture[:3, :3].mean((0, 1))
    assert inside[0] > inside[2] + 30
    assert corner[2] > corner[0] + 30
