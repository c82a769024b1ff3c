"""`generate` with the 720p family and LTX-2's VAE: from text and from a picture, to an mp4."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.command_line import generate
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.command_line.models import Models, load_decoder
from comfyui_sana_video.demo.model_set import demo_set, seeded
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import save_transformer
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.sana_video_core.config import SANA_VIDEO_720P, TransformerConfig
from comfyui_sana_video.sana_video_core.files.image_file import frame_bytes, read_image
from comfyui_sana_video.sana_video_core.files.video_reader import read_metadata
from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo
from comfyui_sana_video.sana_video_core.vae import colours
from PIL import Image
from safetensors.torch import load_file
from support.ltx_twins import ltx_file
from support.tiny_files import tiny_weights

HEADS = {"width": 56, "head_dim": 28, "cross_head_dim": 28}
SIZES = TransformerConfig(channels=128, patch=1, depth=1, ffn_hidden=56, caption_channels=64, **HEADS)
SMALL = ("--size", "96x64", "--frames", 17, "--steps", 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny 720p transformer and narrow VAEs with the names of the published files."""
    folder = tmp_path_factory.mktemp("models")
    model = seeded(SanaVideo(SIZES, SANA_VIDEO_720P), 0)
    save_transformer(folder / "720p.safetensors", model.state_dict(), SIZES, "sana_video_720p")
    ltx_file(folder / "LTX2_video_vae_bf16.safetensors")
    ltx_file(folder / "LTX23_video_vae_bf16.safetensors", "ltx23")
    return folder


@pytest.fixture
def sana(files, tmp_path, monkeypatch, capsys):
    """Runs `generate`: status, stdout, stderr. `vae` names a file, None is none."""
    monkeypatch.chdir(tmp_path)

    def run(*words, vae="LTX2_video_vae_bf16.safetensors", model="720p.safetensors"):
        given = ["--model", files / model, "--text-encoder", demo_set().text_encoder, "--device", "cpu"]
        given += [] if vae is None else ["--vae", files / vae]
        status = main(["generate", "a fox", *map(str, (*given, *words))])
        return (status, *capsys.readouterr())

    return run


def _decoded(files, **options):
    """The bytes of v.latent, by the VAE alone."""
    latents = load_file(Path("v.latent"))["latent_tensor"]
    vae = load_vae(files / "LTX2_video_vae_bf16.safetensors", dtype=torch.float32)
    return latents, frame_bytes(vae.decode(latents, **options))


def _film(monkeypatch):
    """The frames that are given to the mp4."""
    seen, write = [], generate.write_clip

    def watched(options, vae, latents):
        from comfyui_sana_video.command_line import outputs

        class Film(outputs.Film):
            def write(self, frames):
                seen.append(frames)
                super().write(frames)

        with monkeypatch.context() as patch:
            patch.setattr(outputs, "Film", Film)
            write(options, vae, latents)

    monkeypatch.setattr(generate, "write_clip", watched)
    return seen


@pytest.mark.parametrize("more", [("--preview", "p.png"), ("--tile", 2), ("--image", "i.png")])
def test_a_clip_becomes_an_mp4(sana, files, monkeypatch, more):
    """Its frames are those of its latents, which may be written in its place."""
    Image.effect_noise((128, 128), 50).convert("RGB").save("i.png")
    monkeypatch.setattr(colours, "TRIALS", 2)  # of the preview's
    seen = _film(monkeypatch)
    status, out, err = sana(*SMALL, *more, "--out", "v.mp4", "--sheet", "s.png")
    assert status == 0, err
    assert "17 frames" in out
    assert read_metadata(Path("v.mp4"))["prompts"] == ["a fox"]
    assert Image.open("s.png").size > (0, 0)
    assert Path("p.png").exists() == ("--preview" in more)
    assert not list(Path().glob("*.latent"))
    more = () if "--preview" in more else more
    status, out, err = sana(*SMALL, *more, "--out", "v.latent")
    assert status == 0, err
    assert "latents of the LTX-2 VAE" in out
    tiling = generate.tiling_of(_Options) if "--tile" in more else None
    latents, expected = _decoded(files, tiling=tiling)
    assert latents.shape == (1, 128, 3, 2, 3)
    made = torch.cat(seen)
    assert made.shape == (17, 64, 96, 3)
    assert (made.int() - expected.int()).abs().max() <= 1
    assert made.float().std() > 1


class _Options:
    tile = 2


def test_a_picture_is_the_first_latent_frame(sana, files):
    """It is cut to the size of the clip around its middle, and stays as it is."""
    Image.effect_noise((256, 64), 50).convert("RGB").save("i.png")
    assert sana(*SMALL, "--image", "i.png", "--out", "v.latent")[0] == 0
    vae = load_vae(files / "LTX2_video_vae_bf16.safetensors", dtype=torch.float32)
    expected = vae.encode(read_image(Path("i.png"), width=96, height=64))
    first = load_file("v.latent")["latent_tensor"][:, :, :1]
    assert torch.allclose(first, expected, atol=1e-5)


def test_latents_alone_need_no_vae(sana):
    status, _, err = sana(*SMALL, "--out", "v.latent", vae=None)
    assert status == 0, err
    assert load_file("v.latent").keys() == {"latent_tensor", "latent_format_version_0"}


@pytest.mark.parametrize(
    "words, vae, said",
    [
        ((), None, "--vae is missing. Give the LTX-2 VAE (LTX2_video_vae_bf16.safetensors)."),
        (("--out", "v.latent", "--image", "i.png"), None, "--vae is missing. Give the LTX-2 VAE"),
        (("--out", "v.latent", "--preview", "p.png"), None, "--vae is missing. Give the LTX-2 VAE"),
        (
            (),
            "LTX23_video_vae_bf16.safetensors",
            "the LTX-2.3 VAE, but the model is of the family sana_video_720p",
        ),
        ((), demo_set().vae, "the Wan 2.1 VAE, but the model is of the family sana_video_720p"),
        ((), "taew2_1.safetensors", "the draft decoder taew2_1, of the Wan 2.1 VAE, but the"),
        (("--family", "sana_video_480p"), "LTX2_video_vae_bf16.safetensors", "was chosen"),
        (("--out", "v.latent", "--sheet", "s.png"), None, "“v.latent” has to end with .mp4: --sheet shows"),
        (("--size", "32x64"), "LTX2_video_vae_bf16.safetensors", "multiple of 32, 64 at least. Try 64."),
        (("--frames", 16), "LTX2_video_vae_bf16.safetensors", "8n + 1. Try 9 or 17"),
        (("--chunks", 2, "--state-out", "s.safetensors"), None, "has no state"),
    ],
)
def test_refusals_name_the_familys_own_vae_and_come_before_the_work(
    sana, files, monkeypatch, words, vae, said
):
    from safetensors.torch import save_file

    save_file(tiny_weights(dtype=torch.float16), files / "taew2_1.safetensors")
    Image.new("RGB", (64, 96)).save("i.png")
    monkeypatch.setattr(generate, "encode_prompts", None)  # the work has not begun
    status, _, err = sana(*SMALL[:2], *SMALL[4:], *words, vae=vae)
    assert (status, said in err) == (1, True), err
    assert not [path for path in Path().iterdir() if path.name != "i.png"]


def test_a_480p_model_refuses_ltx2(sana, files, monkeypatch):
    monkeypatch.setattr(generate, "encode_prompts", None)
    words = ("--family", "sana_video_480p", "--size", "64x32", "--frames", 9)
    status, _, err = sana(*words, model=demo_set().transformer)
    assert status == 1
    assert "--vae is the LTX-2 VAE, but the model is of the family sana_video_480p" in err
    assert "Give wan_2.1_vae.safetensors" in err


def test_latents_of_480p_are_written_in_the_vaes_space(sana, monkeypatch):
    """As ComfyUI's LATENT has them."""
    words = ("--family", "sana_video_480p", "--size", "64x32", "--frames", 9, "--steps", 2, "--cfg", 1)
    clips, write = [], generate.write_latents
    monkeypatch.setattr(generate, "write_latents", lambda *a: clips.append(a[1]) or write(*a))
    status, out, err = sana(*words, "--out", "v.latent", model=demo_set().transformer, vae=None)
    assert status == 0, err
    assert "Wan 2.1" in out
    from comfyui_sana_video.sana_video_core.config import WAN_2_1
    from comfyui_sana_video.sana_video_core.vae.statistics import to_vae_space

    assert torch.equal(load_file("v.latent")["latent_tensor"], to_vae_space(clips[0], WAN_2_1))


def test_what_info_says_of_its_vae(files, capsys):
    for name, said in (("LTX2", "an LTX-2 VAE, symmetric decoder"), ("LTX23", "an LTX-2.3 VAE")):
        assert main(["info", str(files / f"{name}_video_vae_bf16.safetensors")]) == 0
        assert said in capsys.readouterr().out


def test_on_a_gpu_it_runs_in_bfloat16_where_float16_was_asked_for(files):
    """Its values are too large for float16."""
    gpu = torch.device("meta")  # what isn't a CPU; the weights stay on the CPU until they are used
    for asked, taken in ((torch.float16, torch.bfloat16), (torch.float32, torch.float32)):
        vae = files / "LTX2_video_vae_bf16.safetensors"
        chosen = Models(files, files, vae, torch.device("cpu"), asked, gpu)
        options = Namespace(image=None, video=None)
        assert load_decoder(chosen, options, SANA_VIDEO_720P).dtype == taken
