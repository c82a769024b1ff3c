"""The Wan 2.1 VAE: names, sizes, and parity with diffusers."""

from types import SimpleNamespace

import pytest
import torch
from comfyui_sana_video.sana_video_core.config import LTX_2, WAN_2_1
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.vae.layers import RMSNorm
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space, to_vae_space
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling
from comfyui_sana_video.sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from support import wan_twins
from support.wan_twins import KEYMAP, TOLERANCE, WIDTH, apart, loud, random_latents, random_pixels

ROWS, COLUMNS = 3, 2  # latents: unequal, so that swapped axes are noticed


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def twins() -> tuple[WanVAE, AutoencoderKLWan]:
    return wan_twins.twins()


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return wan_twins.twins()[0]


@pytest.fixture(scope="module")
def full_size() -> WanVAE:
    """The published sizes, without weights."""
    return WanVAE(VAEConfig(), device="meta")


# --- names and sizes


def test_keymap_is_a_bijection_onto_our_names(full_size):
    assert len(KEYMAP) == len(set(KEYMAP.values())) == 194
    with torch.device("meta"):
        theirs = AutoencoderKLWan().state_dict()
    ours = full_size.state_dict()
    assert set(theirs) == set(KEYMAP)
    assert {KEYMAP[name]: tensor.shape for name, tensor in theirs.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }


def test_parameter_counts_of_the_published_size(full_size):
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert (count(full_size), count(full_size.encoder), count(full_size.decoder)) == (
        126_892_531,
        53_595_872,
        73_295_331,
    )


@pytest.mark.parametrize(
    "config", [VAEConfig(), VAEConfig(8), VAEConfig(6, (1, 3, 3, 5), 4, 3), VAEConfig(4, (2, 2, 2, 2), 16, 1)]
)
def test_sizes_are_read_off_the_weights(config):
    weights = WanVAE(config, device="meta").state_dict()
    assert VAEConfig.from_state_dict(weights) == config
    assert VAEConfig.from_state_dict({name: list(tensor.shape) for name, tensor in weights.items()}) == config


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda w: w.clear(), "0 layers"),
        (lambda w: w.pop("conv2.weight"), "conv2.weight"),
        (lambda w: w.update({"encoder.downsamples.11.x": (1,)}), "12 layers"),
        (lambda w: w.update({"encoder.conv1.weight": (7, 3, 3, 3, 3)}), "multiples"),
    ],
)
def test_foreign_weights_are_refused(full_size, change, word):
    weights = dict(full_size.state_dict())
    change(weights)
    with pytest.raises(InputError, match=word):
        VAEConfig.from_state_dict(weights)


@pytest.mark.parametrize(
    "sizes",
    [
        {"base_width": 0},
        {"multipliers": (1, 2, 4)},
        {"blocks": 0},
        {"base_width": 3, "multipliers": (1, 1, 2, 2)},
    ],
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(InputError):
        VAEConfig(**sizes)


def test_every_convolution_comes_from_the_host(full_size):
    class HostConv2d(torch.nn.Conv2d):
        pass

    class HostConv3d(torch.nn.Conv3d):
        pass

    host = SimpleNamespace(Conv2d=HostConv2d, Conv3d=HostConv3d)
    built = WanVAE(VAEConfig(), operations=host, device="meta", dtype=torch.bfloat16)
    kinds = {type(m) for m in built.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)}
    assert kinds == {HostConv2d, HostConv3d}
    assert {parameter.dtype for parameter in built.parameters()} == {torch.bfloat16}
    assert set(built.state_dict()) == set(full_size.state_dict())


def test_cache_sizes_of_the_published_network(full_size):
    """The specification's tables: channels, time steps, and scale relative to one latent (one pixel)."""
    rows, columns = 2, 3
    latent = torch.empty(1, 16, 1, rows, columns, device="meta")
    _, cache = full_size.decode_frame(latent, None)
    _, later = full_size.decode_frame(latent, cache)
    decoder = [(16, 1)] + 11 * [(384, 1)] + [(192, 2)] + 6 * [(384, 2)] + 6 * [(192, 4)] + 7 * [(96, 8)]
    expected = [(1, channels, 2, rows * scale, columns * scale) for channels, scale in decoder]
    assert [tuple(t.shape) for t in cache] == [tuple(t.shape) for t in later] == expected
    assert sum(t.numel() for t in cache) == 151_328 * rows * columns

    pixels = torch.empty(1, 3, 1, 16, 24, device="meta")
    _, cache = full_size.encode_frames(pixels, None)
    encoder = [(3, 2, 1)] + 4 * [(96, 2, 1)] + [(96, 2, 2)] + 3 * [(192, 2, 2)] + [(192, 1, 4), (192, 2, 4)]
    encoder += 3 * [(384, 2, 4)] + [(384, 1, 8)] + 9 * [(384, 2, 8)]
    assert [tuple(t.shape) for t in cache] == [(1, c, t, 16 // r, 24 // r) for c, t, r in encoder]
    assert sum(t.numel() for t in cache) == 1_404 * 16 * 24


# --- parity


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_encode_equals_diffusers(twins, frames):
    ours, theirs = twins
    pixels = random_pixels(frames, ROWS, COLUMNS, batch=2)
    reference = theirs.encode(pixels).latent_dist.mean
    assert reference.std() > 0.1
    assert apart(ours.encode(pixels), reference) <= TOLERANCE


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_decode_equals_diffusers(twins, length):
    ours, theirs = twins
    latents = random_latents(length, ROWS, COLUMNS, batch=2)
    reference = theirs.decode(latents).sample
    assert (reference.abs() < 1).float().mean() > 0.9, "clamping hides the differences"
    assert reference.std() > 0.1
    assert apart(ours.decode(latents), reference) <= TOLERANCE


def test_moments_equal_diffusers(twins):
    ours, theirs = twins
    pixels = random_pixels(1, ROWS, COLUMNS)
    moments, _ = ours.encode_frames(pixels, None)
    assert apart(moments[:, 16:], theirs.encode(pixels).latent_dist.logvar) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm_is_bit_identical_to_diffusers(dtype):
    ours, theirs = RMSNorm(24, 3, dtype=dtype), WanRMS_norm(24, images=False).to(dtype)
    generator = torch.Generator().manual_seed(0)
    gamma = torch.randn(24, 1, 1, 1, generator=generator).to(dtype)
    ours.gamma.copy_(gamma)
    theirs.gamma.copy_(gamma)
    x = (100 * torch.randn(1, 24, 2, 5, 3, generator=generator)).to(dtype)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_stay_half_and_close(vae, dtype):
    latents = random_latents(3, ROWS, COLUMNS)
    pixels = vae.decode(latents)
    narrow = WanVAE(vae.config, dtype=dtype)
    narrow.load_state_dict(vae.state_dict())
    result = narrow.decode(latents)
    assert result.dtype == dtype
    assert apart(result.float(), pixels) < 0.1
    assert narrow.encode(pixels).dtype == dtype


def test_pixels_are_clamped_only_at_the_end(vae):
    overdriven, latents = loud(vae), random_latents(2, ROWS, COLUMNS)
    raw, _ = overdriven.decode_frame(latents[:, :, :1], None)
    whole = overdriven.decode(latents)
    assert raw.abs().max() > 1
    assert whole.abs().max() == 1
    assert torch.equal(whole[:, :, :1], raw.clamp(-1, 1))


# --- refusals


def test_sizes_off_the_grid_are_refused_with_a_size_that_fits(vae):
    with pytest.raises(InputError, match=r"28 x 19 .*multiples of 8.*24 x 16"):
        vae.encode(torch.zeros(1, 3, 1, 19, 28))
    with pytest.raises(InputError, match="8 x 8"):
        vae.encode(torch.zeros(1, 3, 1, 5, 8))


@pytest.mark.parametrize("shape", [(3, 5, 8, 8), (1, 4, 5, 8, 8), (1, 3, 0, 8, 8), (1, 3, 1, 0, 8)])
def test_other_shapes_than_pixels_are_refused(vae, shape):
    with pytest.raises(InputError, match=r"pixels .*\[batch, 3, frames, rows, columns\]"):
        vae.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(16, 2, 2, 2), (1, 48, 1, 2, 2), (1, 16, 0, 2, 2)])
def test_other_shapes_than_latents_are_refused(vae, shape):
    with pytest.raises(InputError, match="latents"):
        vae.decode(torch.zeros(shape))
    with pytest.raises(InputError, match="latents"):
        next(vae.decode_stream([torch.zeros(shape)]))


# --- the two spaces of latents


def test_model_space_is_vae_space_without_means_and_deviations():
    zeros = to_model_space(torch.zeros(1, 16, 1, 1, 1), WAN_2_1).flatten()
    ones = to_vae_space(torch.ones(1, 16), WAN_2_1).flatten()
    assert zeros[0].item() == pytest.approx(0.7571 / 2.8184, rel=1e-6)
    assert zeros[9].item() == pytest.approx(0.0715 / 2.1526, rel=1e-6)
    assert ones[7].item() == pytest.approx(2.0743 + 1.5508, rel=1e-6)
    assert ones[15].item() == pytest.approx(1.9160 - 0.2921, rel=1e-6)


def test_means_and_deviations_are_those_of_diffusers():
    with torch.device("meta"):
        config = AutoencoderKLWan(base_dim=WIDTH).config
    means, deviations = (
        torch.tensor(config[key]).view(1, 16, 1, 1, 1) for key in ("latents_mean", "latents_std")
    )
    latents = random_latents(2, ROWS, COLUMNS)
    assert apart(to_model_space(latents, WAN_2_1), (latents - means) / deviations) == 0
    assert apart(to_vae_space(latents, WAN_2_1), latents * deviations + means) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_to_model_space_and_back(dtype):
    latents = random_latents(3, ROWS, COLUMNS, batch=2).to(dtype)
    model = to_model_space(latents, WAN_2_1)
    assert model.dtype == torch.float32
    assert apart(to_vae_space(model, WAN_2_1), latents.float()) < 1e-5


@pytest.mark.parametrize("convert", [to_model_space, to_vae_space])
def test_other_channels_than_sixteen_are_refused(convert):
    with pytest.raises(InputError, match="LTX-2 latents have 128 channels"):
        convert(torch.zeros(1, 16, 1, 2, 2), LTX_2)
    for shape in ((1, 48, 1, 2, 2), (16,)):
        with pytest.raises(InputError, match="16 channels on the second axis"):
            convert(torch.zeros(shape), WAN_2_1)


def test_gradients_pass_through_encode_and_decode(vae):
    with torch.inference_mode(False), torch.enable_grad():
        trained = WanVAE(vae.config)
        latents = trained.encode(random_pixels(5, ROWS, COLUMNS).clone())
        (trained.decode(latents) + trained.decode(latents, tiling=Tiling(2, 1))).square().mean().backward()
        untouched = {name for name, parameter in trained.named_parameters() if parameter.grad is None}
    assert untouched == set()
