"""For ComfyUI's own samplers: noise levels, and the latent that a clip starts from."""

import importlib
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.bridge.decoding import FAMILY
from comfyui_sana_video.bridge.vaes import HostedVae, vae_of
from comfyui_sana_video.demo.model_set import seeded
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import save_transformer
from comfyui_sana_video.sana_video_core.config import FAMILIES, TransformerConfig
from comfyui_sana_video.sana_video_core.files.image_file import fit_images
from comfyui_sana_video.sana_video_core.sampling import schedule
from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo
from support.artist import NAMED, demo, folders, picture, refused, run
from support.ltx_files import write_ltx
from support.pack import same


@pytest.fixture(autouse=True)
def base(tmp_path):
    with folders(tmp_path):
        yield tmp_path


# --- sigmas


@pytest.mark.parametrize("grid, function", [("dpm++", schedule.dpm_sigmas), ("euler", schedule.euler_sigmas)])
def test_sigmas_are_the_cores_grids(grid, function):
    for steps, shift in ((50, 8.0), (4, 3.0), (1, 8.0)):
        sigmas = run("Sigmas", steps, shift, 1.0, grid)
        assert same(sigmas, torch.tensor(function(steps, shift)))
        assert sigmas.dtype == torch.float32
        assert len(sigmas) == steps + 1
        assert sigmas[-1] == 0
        half = run("Sigmas", steps, shift, 0.5, grid)
        assert same(half, torch.tensor(function(2 * steps, shift)[-(steps + 1) :]))


def test_published_timesteps_of_fifty_steps():
    timesteps = (run("Sigmas", 50, 8.0, 1.0, "dpm++")[:-1] * 1000 + 1e-3).floor().tolist()
    assert (timesteps[:3], timesteps[-3:]) == ([999, 997, 994], [337, 249, 140])


def test_impossible_sigmas_are_refused():
    for values, word in (
        ((0, 8.0, 1.0), "0 steps"),
        ((4, 0.0, 1.0), "shift"),
        ((4, 8.0, 0.0), "denoise is 0.0"),
    ):
        with refused(word):
            run("Sigmas", *values, "dpm++")
    with refused("1100 steps"):
        run("Sigmas", 550, 8.0, 0.5, "dpm++")


# --- noise


def test_noise_is_one_draw_for_the_clip():
    """As inference_sana_video.py draws it: one call with a generator of its own, seeded once."""
    latent = {"samples": torch.zeros(2, 16, 3, 4, 6)}
    before = torch.get_rng_state()
    for device in ("gpu", "cpu"):
        noise = run("Noise", 5, device)
        made = noise.generate_noise(latent)
        where = "cuda" if device == "gpu" and torch.cuda.is_available() else "cpu"
        generator = torch.Generator(where).manual_seed(5)
        assert same(made, torch.randn(2, 16, 3, 4, 6, generator=generator, device=where).cpu())
        assert same(made, noise.generate_noise(latent))
        assert noise.seed == 5
        assert not torch.equal(made, run("Noise", 6, device).generate_noise(latent))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_from_a_file_is_taken_as_it_is():
    given = torch.randn(1, 16, 3, 4, 6)
    kept = given.clone()
    noise = run("Noise", 5, "gpu", {"samples": given})
    made = noise.generate_noise({"samples": torch.zeros(2, 16, 3, 4, 6)})
    assert same(made, given.expand(2, -1, -1, -1, -1))
    made.zero_()
    assert same(given, kept)
    for wrong, word in ((given[:, :, :2], "has to be"), (given * torch.nan, "NaN")):
        with refused(word):
            run("Noise", 5, "gpu", {"samples": wrong}).generate_noise({"samples": kept})


# --- empty latents


def empty(width=48, height=32, length=9, batch=1, *, model=None, **options):
    return run("EmptyLatent", model or demo().bidirectional, width, height, length, batch, **options)


@pytest.mark.parametrize("length, latent_frames", [(1, 1), (9, 3), (81, 21)])
def test_shape_of_an_empty_latent(length, latent_frames):
    latent = empty(length=length, batch=2)
    assert set(latent) == {"samples", FAMILY}
    assert latent["samples"].shape == (2, 16, latent_frames, 4, 6)
    assert not latent["samples"].any()


@cache
def _model_720p():
    rules = FAMILIES["sana_video_720p"]
    sizes = {"channels": 128, "patch": 1, "width": 56, "head_dim": 28, "cross_head_dim": 28}
    config = TransformerConfig(**sizes, depth=1, ffn_hidden=56, caption_channels=8)
    with tempfile.TemporaryDirectory() as folder, folders(Path(folder)):
        path = Path(folder) / "models" / "diffusion_models" / "m.safetensors"
        path.parent.mkdir(parents=True)
        save_transformer(path, seeded(SanaVideo(config, rules), 0).state_dict(), config, rules.name)
        return run("ModelLoader", path.name, "auto")


def test_720p_has_other_channels_and_strides():
    latent = empty(128, 64, 17, model=_model_720p())
    assert latent["samples"].shape == (1, 128, 3, 2, 4)
    with refused("8n + 1", "9 or 17"):
        empty(128, 64, 13, model=_model_720p())
    with refused("multiple of 32", "64 at least", "Try 64"):
        empty(128, 48, 9, model=_model_720p())


# 720_MS_DIV32 of the original, and its test size; height, width
BUCKETS = (
    *((672, 1344), (704, 1280), (800, 1152), (832, 1088), (960, 960), (1024, 896)),
    *((1088, 832), (1152, 800), (1248, 736), (1280, 704), (1344, 672), (736, 1280)),
)


@pytest.mark.parametrize("size", BUCKETS, ids=lambda size: "{}x{}".format(*size))
def test_every_size_of_720p_from_any_picture(size, monkeypatch):
    """A picture fills the size, and what is too much goes on both sides alike."""
    height, width = size
    assert NAMED["SanaVideoEmptyLatent"].validate_inputs(width, height, 81) is True
    seen = []

    def encode(self, pixels):
        seen.append(pixels)
        return torch.ones(len(pixels), 128, 1, height // 32, width // 32)

    monkeypatch.setattr(HostedVae, "encode", encode)
    monkeypatch.setattr(HostedVae, "load_for", lambda *_: None)
    for rows, columns in ((300, 90), (90, 300), (64, 64), (4, 500)):
        image = torch.zeros(1, rows, columns, 3)
        image[:, rows // 2 :, :, 0] = image[:, :, columns // 2 :, 1] = 1
        latent = empty(width, height, 81, model=_model_720p(), vae=_ltx(), image=image)
        assert latent["samples"].shape == (1, 128, 11, height // 32, width // 32)
        pixels = seen.pop()
        assert pixels.shape == (1, 3, 1, height, width)
        # red below the middle, green right of it
        red, green = pixels[0, 0, 0].mean(dim=1), pixels[0, 1, 0].mean(dim=0)
        for line in (red, green):
            assert abs(int((line < 0).sum()) - len(line) / 2) <= 1


@cache
def _ltx(name="LTX-2"):
    with tempfile.TemporaryDirectory() as folder, folders(Path(folder)):
        path = Path(folder) / "models" / "vae" / "vae.safetensors"
        path.parent.mkdir(parents=True)
        write_ltx(path, name, lambda module: importlib.import_module(f"comfyui_sana_video.{module}"))
        return run("VAELoader", path.name)


def test_an_image_is_frame_0_and_the_mask_keeps_it():
    images = picture(100, 40)
    before = images.clone()
    latent = empty(vae=demo().vae, image=images, batch=2)
    samples, mask = latent["samples"], latent["noise_mask"]
    expected = vae_of(demo().vae).encode(fit_images(images, width=48, height=32))
    assert samples.shape == (2, 16, 3, 4, 6)
    assert torch.allclose(samples[:, :, :1], expected.expand(2, -1, -1, -1, -1), atol=1e-5)
    assert not samples[:, :, 1:].any()
    assert mask.shape == (1, 1, 3, 4, 6)
    assert not mask[:, :, 0].any()
    assert mask[:, :, 1:].eq(1).all()
    assert same(images, before)


def test_each_row_of_a_batch_may_have_its_image():
    images = picture(count=2)
    samples = empty(vae=demo().vae, image=images, batch=2)["samples"]
    for row in range(2):
        alone = empty(vae=demo().vae, image=images[row : row + 1])["samples"]
        assert torch.allclose(samples[row], alone[0], atol=1e-4)
    assert not torch.allclose(samples[0], samples[1], atol=1e-2)
    with refused("2 images", "batch of 3"):
        empty(vae=demo().vae, image=images, batch=3)


def test_impossible_latents_are_refused():
    with refused("80 frames", "4n + 1", "77 or 81"):
        empty(length=80)
    with refused("height is 40", "32 or 48"):
        empty(height=40)
    with refused("needs a VAE", "Load SANA-Video VAE"):
        empty(image=picture())
    with refused("Wan 2.1 VAE is connected", "720p", "LTX-2 VAE", "LTX2_video_vae_bf16"):
        empty(128, 64, 9, model=_model_720p(), vae=demo().vae, image=picture())
    with refused("needs a VAE", "LTX-2 VAE"):
        empty(128, 64, 9, model=_model_720p(), image=picture())
    with refused("not SANA-Video"):
        empty(model=object())


def test_a_vae_without_an_image_changes_nothing():
    assert set(empty(vae=demo().vae)) == {"samples", FAMILY}


def test_what_comfyuis_samplers_made_is_still_refused_by_another_vae():
    """They copy what they don't know in a LATENT. LTX-2's latents and LTX-2.3's have one shape."""
    made = {**empty(128, 64, 9, model=_model_720p()), "samples": torch.ones(1, 128, 2, 2, 4)}
    with refused("LTX-2.3 VAE is connected", "720p", "LTX2_video_vae_bf16"):
        run("Decode", _ltx("LTX-2.3"), made)
    assert run("Decode", _ltx(), made).shape == (9, 64, 128, 3)
