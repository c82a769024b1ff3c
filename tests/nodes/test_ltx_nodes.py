"""The VAE of the 720p families: loaded, decoded and encoded by our nodes, without ComfyUI's class."""

import importlib

import comfy.model_management as management
import comfy.sd
import pytest
import torch
from comfyui_sana_video.bridge.vaes import encoder_of, load_vae, vae_of
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae as load_network
from comfyui_sana_video.sana_video_core.errors import SanaVideoError
from comfyui_sana_video.sana_video_core.vae.ltx_vae import LtxVAE
from support.artist import demo, folders, one_chunk, picture, refused, run, start
from support.ltx_files import SIZES, write_ltx


def pack(module: str):
    return importlib.import_module(f"comfyui_sana_video.{module}")


@pytest.fixture(params=SIZES)
def file(request, tmp_path):
    return write_ltx(tmp_path / "vae.safetensors", request.param, pack), request.param


def latents(frames: int) -> torch.Tensor:
    return torch.randn(1, 128, frames, 2, 3, generator=torch.Generator().manual_seed(1))


def test_it_is_known_decodes_and_encodes(file):
    path, name = file
    vae = load_vae(path)
    assert type(vae) is comfy.sd.VAE
    hosted, network = vae_of(vae), load_network(path, dtype=vae.vae_dtype)
    assert hosted.spec.name == name
    pixels = network.decode(latents(3))
    shown = run("Decode", vae, {"samples": latents(3)})
    assert shown.shape == (17, 64, 96, 3)
    assert torch.equal(shown, ((pixels + 1) / 2)[0].permute(1, 2, 3, 0).float())
    assert torch.equal(encoder_of(vae).encode(pixels), network.encode(pixels).float())


def test_a_causal_decoder_stays_causal(file):
    """Its weights look like the published ones': only the file's name or config says it."""
    path = file[0].rename(file[0].with_name("ltx2_causal_vae.safetensors"))
    vae = load_vae(path)
    network = load_network(path, dtype=vae.vae_dtype)
    assert network.config.causal
    pixels = network.decode(latents(3))
    assert torch.equal(vae_of(vae).network.decode(latents(3)), pixels)
    assert torch.equal(pixels[:, :, :1], network.decode(latents(3)[:, :, :1]))


def test_the_network_reads_the_layers_as_they_are_now(file):
    vae = load_vae(file[0])
    hosted, before = vae_of(vae), vae_of(vae).network.decode(latents(1))
    for module in vae.first_stage_model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.detach() * 0.9, requires_grad=False))
    assert not torch.allclose(hosted.network.decode(latents(1)), before, atol=1e-3)


def test_out_of_memory_goes_on_in_tiles(file, monkeypatch, caplog):
    """Of 512 pixels; latents begin again, and what was shown isn't shown twice."""
    vae, decode = load_vae(file[0]), LtxVAE.decode_stream
    asked = []

    def short(self, pieces, *, tiling=None):
        asked.append(tiling)
        if tiling is None:
            raise torch.OutOfMemoryError
        yield from decode(self, pieces, tiling=tiling)

    monkeypatch.setattr(LtxVAE, "decode_stream", short)
    assert run("Decode", vae, {"samples": latents(2)}).shape == (9, 64, 96, 3)
    assert [tiling and (tiling.tile, tiling.overlap) for tiling in asked] == [None, (16, 4)]
    assert "in tiles" in caplog.text


def test_sizes_that_comfyui_cannot_build_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(comfy.sd, "VAE", lambda **_: pytest.fail("too late"))
    path = write_ltx(tmp_path / "small.safetensors", "LTX-2.3", pack, latent_channels=4)
    with pytest.raises(SanaVideoError, match=r"LTX-2\.3 VAE of other sizes .* Use LTX23_video_vae"):
        load_vae(path)


def test_another_models_vae_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    """Where a state or a model says whose latents they are. LTX-2's and LTX-2.3's differ in nothing else."""
    vae = load_vae(write_ltx(tmp_path / "vae.safetensors", "LTX-2.3", pack))
    (latent, state, _), words = (
        one_chunk(),
        ("LTX-2.3 VAE is connected", "demo", "Wan 2.1 VAE", "wan_2.1_vae"),
    )
    monkeypatch.setattr(management, "load_models_gpu", lambda *_, **__: pytest.fail("too late"))
    film = {"script": "a ball", "seconds": 5, "seed": 0, "width": 48, "height": 32, "fps": 16.0}
    film |= {"filename_prefix": "film", "resume": True, "text_encoder": demo().encoder}
    for name, inputs in (
        ("Decode", {"vae": vae, "latent": latent, "state": state}),
        ("DecodeStream", {"vae": vae, "state": state, "from_chunk": 0, "fps": 16.0, "codec": "h264"}),
        ("Prime", {"vae": vae, "model": demo().model, "positive": demo().positive, "state": start()}),
        ("LongVideo", {**film, "vae": vae, "model": demo().model}),
    ):
        more = {"image": picture()} if name == "Prime" else {}
        more |= {"batch_row": 0} if name == "DecodeStream" else {}
        with folders(tmp_path), refused(*words):
            run(name, **inputs, **more)
