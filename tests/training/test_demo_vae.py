"""The training of the VAE: windows that go on, latents that are Wan's, a decoder that learns on."""

import copy

import pytest
import torch
from comfyui_sana_video.sana_video_core.config import WAN_2_1
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space
from comfyui_sana_video.training import vae

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def small_vae():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return vae.fresh_vae(8, CPU, torch.float32)


def test_encoding_in_two_calls_is_the_vaes_own(small_vae):
    windows = vae.Windows(0, 1, 16, 16, CPU)
    pixels, starts = windows.next()
    assert starts
    assert pixels.shape == (1, 3, 17, 16, 16)
    with torch.no_grad():
        means, _, _ = vae.encode(small_vae, pixels)
        assert torch.allclose(means, small_vae.encode(pixels), atol=1e-5)
        seen, _ = vae.decode(small_vae, means)
        assert torch.allclose(seen.clamp(-1, 1), small_vae.decode(means), atol=1e-5)


def test_windows_go_on(small_vae):
    """Window after window with the cache is one long clip."""
    windows = vae.Windows(1, 2, 16, 32, CPU)
    windows.windows = 3
    parts = [windows.next() for _ in range(3)]
    assert [starts for _, starts in parts] == [True, False, False]
    clip = torch.cat([pixels for pixels, _ in parts], dim=2)
    assert clip.shape == (2, 3, 49, 16, 16)
    cache, means = None, []
    with torch.no_grad():
        for pixels, _ in parts:
            m, _, cache = vae.encode(small_vae, pixels, cache)
            means.append(m)
        assert torch.allclose(torch.cat(means, dim=2), small_vae.encode(clip), atol=1e-5)


def test_normalised_latents_are_wans(small_vae):
    windows = vae.Windows(2, 2, 16, 16, CPU)
    pixels, _ = vae.Windows(5, 1, 16, 16, CPU).next()
    same = vae.normalised(small_vae, windows, 4)
    with torch.no_grad():
        means, _, _ = vae.encode(small_vae, pixels)
        latents = same.encode(pixels)
        seen, _ = vae.decode(small_vae, means)
        assert torch.allclose(same.decode(latents), seen.clamp(-1, 1), atol=1e-4)
        normal = to_model_space(same.encode(vae.Windows(2, 2, 16, 16, CPU).next()[0]), WAN_2_1)
    assert 0.3 < normal.square().mean() < 3


def test_a_decoder_that_learns_on_leaves_the_latents_as_they_are(small_vae):
    """Only what follows on the latents gets gradients, and a story's first frame counts beside its window."""
    tuned = copy.deepcopy(small_vae)
    vae.settle_latents(tuned)
    pixels, starts = vae.Windows(5, 1, 16, 16, CPU).next()
    assert starts
    noise = torch.randn(1, 16, 5, 2, 2, generator=generator())
    begun = vae.vae_pass(tuned, pixels, noise)
    begun.loss.backward()
    for name, parameter in tuned.named_parameters():
        assert (parameter.grad is not None) == name.startswith(("conv2.", "decoder.")), name
    with torch.no_grad():
        means, spread, _ = vae.encode(tuned, pixels)
        seen, _ = vae.decode(tuned, means + torch.exp(0.5 * spread) * noise)
    whole, first = (vae.picture_error(seen[:, :, :n], pixels[:, :, :n]) for n in (17, 1))
    divergence = 0.5 * (means.square() + spread.exp() - 1 - spread).mean()
    assert torch.allclose(begun.loss, whole + vae.DIVERGENCE * divergence + vae.OPENING * first)
