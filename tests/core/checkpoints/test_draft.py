"""Tiny decoders in every spelling, told apart, and everything else refused by what it is."""

import logging

import pytest
import torch
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.checkpoints.draft import (
    load_draft,
    load_vae_or_draft,
    read_vae_or_draft,
)
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.vae.tiny_decoder import LIGHTTAEW2_1, TAEW2_1
from comfyui_sana_video.sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from safetensors.torch import load_file, save_file
from support.tiny_files import tiny_weights

WEIGHTS = tiny_weights()
HALF = {name: tensor.half() for name, tensor in WEIGHTS.items()}
DECODER = {name: tensor for name, tensor in WEIGHTS.items() if name.startswith("decoder.")}


def _saved(folder, tensors, name="taew2_1.safetensors"):
    path = folder / name
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


SPELLINGS = {
    "original": WEIGHTS,
    "decoder only": DECODER,
    "decoder alone": {name.removeprefix("decoder."): t for name, t in DECODER.items()},
    "VideoX-Fun": {f"model.{name}": t for name, t in WEIGHTS.items()},
    "lightx2v's module": {f"taehv.{name}": t for name, t in WEIGHTS.items()},
    "prefixed parts": {f"taehv_{name}": t for name, t in WEIGHTS.items()},
    "prefixed twice": {f"taehv_{name.split('.')[0]}.{name}": t for name, t in WEIGHTS.items()},
    "in a checkpoint": {f"vae.{name}": t for name, t in WEIGHTS.items()} | {"step.count": torch.ones(1)},
    "compiled": {f"decoder._orig_mod.{name.removeprefix('decoder.')}": t for name, t in DECODER.items()},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling(tmp_path, spelling):
    tensors, kind, _ = read_vae_or_draft(_saved(tmp_path, SPELLINGS[spelling]))
    assert kind == TAEW2_1
    assert {n for n in tensors if n.startswith("decoder.")} == DECODER.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in DECODER.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_kinds_of_files(tmp_path, suffix):
    path = _saved(tmp_path, HALF, f"taew2_1{suffix}")
    decoder = load_draft(path, dtype=torch.float32)
    assert decoder.dtype == torch.float32
    assert load_draft(path).dtype == torch.float16
    assert torch.equal(decoder.decoder[22].bias, HALF["decoder.22.bias"].float())
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


@pytest.mark.parametrize(
    "name, weights, kind",
    [
        ("taew2_1.safetensors", HALF, TAEW2_1),
        ("taew2_1_fp32.safetensors", WEIGHTS, TAEW2_1),
        ("TAEW2.1-bf16.safetensors", WEIGHTS, TAEW2_1),
        ("madebyollin_taehv_taew2_1.safetensors", HALF, TAEW2_1),
        ("lighttaew2_1.safetensors", WEIGHTS, LIGHTTAEW2_1),
        ("lighttaew2_1_fp16.safetensors", HALF, LIGHTTAEW2_1),
        ("LightTAE-Wan2.1.safetensors", HALF, LIGHTTAEW2_1),
    ],
)
def test_the_name_says_which_it_is(tmp_path, caplog, name, weights, kind):
    with caplog.at_level(logging.WARNING):
        assert load_draft(_saved(tmp_path, weights, name)).kind == kind
    assert not caplog.text


@pytest.mark.parametrize(
    "weights, kind, other", [(HALF, TAEW2_1, LIGHTTAEW2_1), (WEIGHTS, LIGHTTAEW2_1, TAEW2_1)]
)
def test_where_the_name_says_nothing_the_type_does_and_a_word_is_said(tmp_path, caplog, weights, kind, other):
    with caplog.at_level(logging.WARNING):
        assert load_draft(_saved(tmp_path, weights, "draft.safetensors")).kind == kind
    assert "“draft.safetensors” doesn't say by its name which" in caplog.text
    assert f"read as {kind}." in caplog.text
    assert f"({other})" in caplog.text


def test_a_folder_of_videox_fun(tmp_path):
    """Its class reads what the model makes, whatever the type of the weights."""
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderTinyWan"}', encoding="utf-8")
    _saved(tmp_path, SPELLINGS["VideoX-Fun"], "diffusion_pytorch_model.safetensors")
    assert load_draft(tmp_path).kind == TAEW2_1


def _super(channels):
    sizes = {"decoder.0.weight": (512, channels, 1, 1), "decoder.1.conv.0.weight": (1024, 1, 7, 7)}
    return {name: torch.zeros(size) for name, size in sizes.items()} | {"decoder.22.bias": torch.zeros(12)}


@pytest.mark.parametrize(
    "name, tensors, said",
    [
        ("taew2_2.safetensors", tiny_weights(channels=48, colours=12), r"Wan 2\.2 5B"),
        ("taew2_1.safetensors", tiny_weights(channels=48, colours=12), r"Wan 2\.2 5B"),
        ("taew2_2_super.safetensors", _super(48), r"Wan 2\.2 5B"),
        ("taehv1_5.safetensors", tiny_weights(channels=32, colours=12), r"HunyuanVideo 1\.5"),
        ("taehv1_5_super.safetensors", _super(32), r"HunyuanVideo 1\.5"),
        (
            "taeltx_2.safetensors",
            tiny_weights(channels=128, colours=48),
            "LTX-2.*whole LTX-2 VAE",
        ),
        ("taeh3.safetensors", tiny_weights(channels=24, colours=12), "MiniMax H3"),
        ("taehv.safetensors", HALF, "HunyuanVideo,"),
        ("taecvx.pth", HALF, "CogVideoX"),
        ("taew2_1.safetensors", tiny_weights(channels=12), r"another model \(12 latent channels"),
        ("taew2_1_super.safetensors", _super(16), r"another model \(16 latent channels"),
        ("taew2_1.safetensors", {"decoder.22.bias": torch.zeros(3)}, "another model"),
    ],
)
def test_decoders_of_other_models_are_named(tmp_path, name, tensors, said):
    path = _saved(tmp_path, tensors, name)
    for load in (load_draft, load_vae_or_draft):
        with pytest.raises(
            FileError, match=rf"“{name}” is a tiny decoder of {said}.*Use taew2_1\.safetensors"
        ):
            load(path)


TAESD = {"1.weight": (64, 4, 3, 3), "3.conv.0.weight": (64, 64, 3, 3), "19.bias": (3,)}


@pytest.mark.parametrize("prefix", ["", "decoder.", "taesd_decoder.", "decoder.layers."])
def test_tiny_autoencoders_of_pictures_are_named(tmp_path, prefix):
    tensors = {f"{prefix}{name}": torch.zeros(size) for name, size in TAESD.items()}
    with pytest.raises(
        FileError, match=r"“taesd\.safetensors” .*tiny autoencoder of pictures, such as TAESD"
    ):
        load_vae_or_draft(_saved(tmp_path, tensors, "taesd.safetensors"))


def test_damaged_ones_are_refused(tmp_path):
    lacking, narrow = dict(WEIGHTS), torch.zeros(128, 128, 1, 1)
    del lacking["decoder.5.conv.2.bias"]
    for broken, said in (
        (lacking, r"1 missing \(decoder\.5\.conv\.2\.bias"),
        (WEIGHTS | {"decoder.13.conv.weight": narrow}, r"decoder\.13\.conv\.weight has shape"),
        (WEIGHTS | {"decoder.22.bias": torch.full((3,), torch.nan)}, "no numbers"),
        (WEIGHTS | {"decoder.22.bias": torch.zeros(3, dtype=torch.int8)}, "quantized"),
        (WEIGHTS | {"decoder.23.bias": torch.zeros(3)}, "1 unknown"),
    ):  # fmt: skip
        with pytest.raises(FileError, match=rf"“taew2_1\.safetensors”.*{said}"):
            load_draft(_saved(tmp_path, broken))


def test_a_whole_vae_is_read_where_one_may_be_and_refused_as_a_draft(tmp_path):
    path = demo_set().vae
    assert isinstance(load_vae_or_draft(path), WanVAE)
    tensors, kind, config = read_vae_or_draft(path)
    assert kind is None
    assert config == VAEConfig.from_state_dict(tensors)
    assert tensors.keys() == load_file(path).keys()
    with pytest.raises(FileError, match=r"is a whole Wan 2\.1 VAE, no draft decoder\. Use taew2_1"):
        load_draft(path)


def test_a_draft_is_refused_where_a_whole_vae_is_needed(tmp_path):
    with pytest.raises(FileError, match=r"tiny decoder, which drafts and can't encode\)\. Use wan_2\.1_vae"):
        load_vae(_saved(tmp_path, HALF))
