"""LTX-2's and LTX-2.3's video VAE: names, sizes, golden tensors, parity with diffusers, refusals."""

import json
from dataclasses import replace

import pytest
import torch
from comfyui_sana_video.sana_video_core.config import LTX_2, LTX_2_3
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.vae.ltx_config import LTX_2_3_SIZES, SPACE, TIME, LtxConfig
from comfyui_sana_video.sana_video_core.vae.ltx_layers import active, depth_to_space, space_to_depth
from comfyui_sana_video.sana_video_core.vae.ltx_vae import LtxVAE
from comfyui_sana_video.sana_video_core.vae.statistics import to_model_space, to_vae_space
from support import checks_ltx
from support.ltx_twins import (
    KEYMAP,
    VERSIONS,
    apart,
    decoded_by_theirs,
    encoded_by_theirs,
    latents,
    ours,
    pixels,
    sizes,
    weights,
)
from support.pack import Pack

NAMES = json.loads(KEYMAP.read_text())
PUBLISHED = {"ltx2": LtxConfig(), "ltx23": LTX_2_3_SIZES}


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


# --- names and sizes


@pytest.mark.parametrize(
    "version, whole, encoder, decoder",
    [("ltx2", 1_222_479_857, 694_098_881, 528_380_720), ("ltx23", 726_106_225, 318_936_897, 407_169_072)],
)
def test_names_and_parameters_of_the_published_sizes(version, whole, encoder, decoder):
    vae = LtxVAE(PUBLISHED[version], device="meta")
    assert vae.state_dict().keys() == set(NAMES[version].values())
    counts = [
        sum(tensor.numel() for tensor in part.state_dict().values())
        for part in (vae, vae.encoder, vae.decoder)
    ]
    assert counts == [whole, encoder, decoder]


@pytest.mark.parametrize("config", [*PUBLISHED.values(), *map(sizes, VERSIONS)])
def test_sizes_are_read_from_weights(config):
    weights = LtxVAE(config, device="meta").state_dict()
    assert LtxConfig.from_state_dict(weights) == config
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    assert LtxConfig.from_state_dict(shapes, causal=True) == replace(config, causal=True)


def test_the_two_versions_differ_in_more_than_sizes():
    assert (LtxConfig().spec, LTX_2_3_SIZES.spec) == (LTX_2, LTX_2_3)
    assert (LtxConfig().shortcut, LTX_2_3_SIZES.shortcut) == (True, False)
    assert (LtxConfig().padding, LTX_2_3_SIZES.padding) == ("reflect", "zeros")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"decoder.up_blocks.1.conv.conv.weight": (96, 64, 3, 3, 3)}, "96 and 32 channels side by side"),
        ({"decoder.up_blocks.1.conv.conv.weight": (64, 64, 3, 3, 3)}, r"decoder of the strides \(8, 4, 4\)"),
        ({"decoder.conv_in.conv.weight": (64, 4, 3, 3)}, r"shape \[64, 4, 3, 3\], which is no convolution"),
        ({"decoder.up_blocks.7.conv.conv.weight": (64, 64, 3, 3, 3)}, "8 layers named “decoder.up_blocks”"),
        ({"encoder.down_blocks.2.res_blocks.0.conv1.conv.weight": None}, "no “encoder.down_blocks.2.res_bl"),
        ({"encoder.down_blocks.1.conv.conv.weight": (0, 4, 3, 3, 3)}, "8 and 0 channels"),
    ],
)
def test_weights_of_another_network_are_refused(change, said):
    shapes = {name: tuple(tensor.shape) for name, tensor in weights("ltx2").items()} | change
    with pytest.raises(InputError, match=f"{said}.*Choose the LTX-2 VAE"):
        LtxConfig.from_state_dict({name: shape for name, shape in shapes.items() if shape is not None})


# --- numbers


@pytest.mark.parametrize("dtype", checks_ltx.TOLERANCE)
@pytest.mark.parametrize("check", checks_ltx.LTX_CHECKS)
def test_golden_tensors(check, dtype):
    check(Pack(), dtype)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("causal", [False, True])
def test_decoding_equals_diffusers(version, causal):
    vae, z = ours(version, torch.float64, causal=causal), latents(5, rows=4, columns=2, batch=2)
    assert apart(vae.decode(z), decoded_by_theirs(version, z, causal=causal)) < 1e-12
    one = latents(1)
    assert apart(vae.decode(one), decoded_by_theirs(version, one, causal=causal)) < 1e-12


@pytest.mark.parametrize("version", VERSIONS)
def test_encoding_equals_diffusers(version):
    vae, x = ours(version, torch.float64), pixels(9, rows=4, columns=2, batch=2)
    assert apart(vae.encode(x), encoded_by_theirs(version, x)) < 1e-12
    assert apart(vae.encode(pixels(1)), encoded_by_theirs(version, pixels(1))) < 1e-12


def test_half_types_keep_statistics_and_latents_wide():
    vae = ours("ltx2", torch.bfloat16)
    z = vae.encode(pixels(9).float())
    assert z.dtype == torch.float32
    exact = ours("ltx2").encode(pixels(9).float())
    assert (z - exact).norm() < 0.05 * exact.norm()
    assert vae.decode(latents(2).float()).dtype == torch.bfloat16


def test_norms_of_half_types_are_summed_in_float32():
    x = torch.full((1, 4096, 1, 1, 1), 2.0, dtype=torch.bfloat16)
    assert apart(active(x), torch.nn.functional.silu(torch.ones_like(x))) < 1e-2


def test_depth_and_space():
    x = torch.arange(2 * 4 * 6 * 8).view(1, 2, 4, 6, 8)
    for factor in (TIME, SPACE, (2, 2, 2)):
        assert torch.equal(depth_to_space(space_to_depth(x, factor), factor), x)
    assert space_to_depth(x, TIME)[0, :, 0, 0, 0].tolist() == [0, 48, 192, 240]
    assert space_to_depth(x, SPACE)[0, :4, 0, 0, 0].tolist() == [0, 1, 8, 9]


def test_vae_space_is_model_space():
    z = latents(2, channels=128)
    for convert in (to_vae_space, to_model_space):
        for spec in (LTX_2, LTX_2_3):
            assert torch.equal(convert(z, spec), z.float())


# --- what is said


def test_progress_counts_latent_frames():
    vae, seen = ours("ltx23"), []
    vae.encode(pixels(17).float(), on_step=lambda *done: seen.append(done))
    vae.decode(latents(3).float(), on_step=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2


@pytest.mark.parametrize(
    "size, said",
    [
        ((1, 3, 8, 64, 64), "A clip of 8 frames is not possible: the count has to be 8n \\+ 1. Try 1 or 9."),
        ((1, 3, 9, 48, 64), "The height is 48 pixels; it has to be a multiple of 32, 64 at least. Try 64."),
        (
            (1, 3, 9, 64, 80),
            "The width is 80 pixels; it has to be a multiple of 32. Try 64 or 96.",
        ),
        ((1, 3, 9, 32, 64), "The height is 32 pixels; it has to be a multiple of 32, 64 at least. Try 64."),
        ((3, 9, 64, 64), r"the shape \[3, 9, 64, 64\]; they have to be \[batch, 3, frames, rows, columns\]"),
        ((1, 4, 9, 64, 64), "have to be"),
        ((1, 3, 0, 64, 64), "none of them 0"),
    ],
)
def test_pixels_of_other_sizes_are_refused(size, said):
    with pytest.raises(InputError, match=said):
        ours("ltx2").encode(torch.zeros(size))


@pytest.mark.parametrize(
    "size", [(1, 4, 3, 1, 4), (1, 4, 3, 4, 1), (1, 16, 3, 4, 4), (1, 4, 0, 4, 4), (4, 3, 4, 4)]
)
def test_latents_of_other_sizes_are_refused(size):
    vae, z = ours("ltx2"), torch.zeros(size)
    for decode in (vae.decode, lambda z: list(vae.decode_stream(z))):
        with pytest.raises(InputError, match="of at least 2 x 2"):
            decode(z)


def test_without_mirrored_borders_one_latent_is_enough():
    z = latents(2, rows=1, columns=1)
    assert apart(ours("ltx23", torch.float64).decode(z), decoded_by_theirs("ltx23", z)) < 1e-12
