"""LTX-2's VAE in files: both spellings, alone or in a checkpoint, told from its relatives."""

import json
import logging
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.draft import (
    load_draft,
    load_vae_or_draft,
    read_vae_or_draft,
)
from comfyui_sana_video.sana_video_core.checkpoints.ltx_names import canonical_ltx, warn_of_others
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import tensor_file
from comfyui_sana_video.sana_video_core.vae.ltx_config import LTX_2_3_SIZES
from comfyui_sana_video.sana_video_core.vae.ltx_vae import LtxVAE
from safetensors.torch import save_file
from support.ltx_twins import (
    KEYMAP,
    VERSIONS,
    in_diffusers_spelling,
    ltx_file,
    published_config,
    sizes,
    theirs,
    weights,
)

NAMES = json.loads(KEYMAP.read_text())
OTHERS = {  # of a full checkpoint
    "model.diffusion_model.blocks.0.weight_scale": torch.ones(1),
    "audio_vae.decoder.conv_in.conv.weight": torch.ones(2),
    "vocoder.resblocks.0.weight": torch.ones(2),
}


def _config(version, **changes):
    entries = json.loads(published_config(sizes(version)))
    entries["vae"] |= changes
    return {"config": json.dumps(entries)}


def _original(folder, version, name="x.safetensors", metadata=None, more=None, prefix=""):
    path = folder / name
    tensors = {f"{prefix}{key}": tensor for key, tensor in weights(version).items()} | (more or {})
    save_file(tensors, path, _config(version) if metadata is None else metadata)
    return path


def _diffusers(folder, version, **entries):
    folder = folder / "vae"
    folder.mkdir(exist_ok=True)
    tensors = in_diffusers_spelling(weights(version), theirs(version, False).state_dict())
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "AutoencoderKLLTX2Video", "decoder_causal": False} | entries
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FORMATS = {
    "original": _original,
    "without a config": lambda folder, version: _original(folder, version, metadata={}),
    "with unused statistics": lambda folder, version: _original(
        folder,
        version,
        more={
            f"per_channel_statistics.{name}": torch.ones(4)
            for name in ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means")
        },
    ),
    "in a checkpoint": lambda folder, version: _original(folder, version, more=OTHERS, prefix="vae."),
    "in a quantised checkpoint": lambda folder, version: _original(
        folder,
        version,
        more=OTHERS,
        prefix="vae.",
        metadata=_config(version) | {"_quantization_metadata": "{}"},
    ),
    "alone with a prefix": lambda folder, version: _original(folder, version, prefix="vae."),
    "diffusers": _diffusers,
    "a pipeline": lambda folder, version: _diffusers(folder, version).parent,
    "a file of diffusers": lambda folder, version: (
        _diffusers(folder, version) / "diffusion_pytorch_model.safetensors"
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_vae(tmp_path, kind, version):
    vae = load_vae(FORMATS[kind](tmp_path, version))
    assert isinstance(vae, LtxVAE)
    assert vae.config == sizes(version)
    expected = weights(version)
    assert vae.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in vae.state_dict().items())
    assert not any(parameter.requires_grad for parameter in vae.parameters())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rule_makes_the_whole_key_map(version):
    """Of the published sizes: diffusers' names become the original's, which stay."""
    names = NAMES[version]
    assert canonical_ltx({name: name for name in names}) == {new: old for old, new in names.items()}
    assert canonical_ltx({name: name for name in names.values()}) == {name: name for name in names.values()}


def test_of_a_checkpoint_only_the_vae_is_read(tmp_path, monkeypatch):
    """Tensors of the other networks, 20 GB of them, are not even mapped."""
    read, whole = [], _original(tmp_path, "ltx2", more=OTHERS, prefix="vae.")
    plain = tensor_file.safe_open

    class Watched:
        def __init__(self, *args, **options):
            self.file = plain(*args, **options)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(tensor_file, "safe_open", Watched)
    load_vae(whole)
    assert len(read) == len(weights("ltx2"))
    assert all(name.startswith("vae.") for name in read)


CAUSAL = {
    "by its config": (
        lambda folder: _original(folder, "ltx2", metadata=_config("ltx2", causal_decoder=True))
    ),
    "by its folder's config": lambda folder: _diffusers(folder, "ltx2", decoder_causal=True),
    "by its folder's class": lambda folder: _diffusers(
        folder, "ltx2", _class_name="AutoencoderKLCausalLTX2Video"
    ),
    "by the config beside it": lambda folder: (
        _diffusers(folder, "ltx2", decoder_causal=True) / "diffusion_pytorch_model.safetensors"
    ),
    "by its name": lambda folder: _original(folder, "ltx2", "ltx2_causal_vae.safetensors", metadata={}),
}


@pytest.mark.parametrize("how", CAUSAL)
def test_a_causal_decoder_is_told(tmp_path, how, caplog):
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert load_vae(CAUSAL[how](tmp_path)).config == sizes("ltx2", causal=True)
    assert ("by its name it is read as the causal" in caplog.text) == (how == "by its name")


def test_a_config_counts_more_than_a_name(tmp_path, caplog):
    path = _original(tmp_path, "ltx2", "not_causal.safetensors", metadata=_config("ltx2"))
    assert not load_vae(path).config.causal
    assert not caplog.text


RELATIVES = {
    "decoder.timestep_scale_multiplier": "the VAE of LTX-Video, which is told a time step",
    "decoder.last_scale_shift_table": "the VAE of LTX-Video",
    "decoder.up_blocks.0.time_embedder.timestep_embedder.linear_1.weight": "the VAE of LTX-Video",
    "decoder.up_blocks.0.res_blocks.0.per_channel_scale1": "the VAE of LTX-Video",
    "encoder.down_blocks.0.res_blocks.0.conv_shortcut.weight": "the VAE of an early LTX-Video",
    "encoder.down_blocks.1.conv.weight": "the VAE of an early LTX-Video",
}


@pytest.mark.parametrize("name", RELATIVES)
@pytest.mark.parametrize("prefix", ["", "vae."])
def test_the_vaes_of_other_versions_are_refused(tmp_path, name, prefix):
    path = _original(tmp_path, "ltx2", more={f"{prefix}{name}": torch.ones(2)}, prefix=prefix)
    with pytest.raises(FileError, match=rf"“x\.safetensors” is {RELATIVES[name]}.*LTX2_video_vae"):
        load_vae(path)


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"decoder.conv_in_x_t.weight": torch.ones(2), "encoder.x": torch.ones(2)}, "the diffusion decoder"),
        ({"audio_vae.decoder.x": torch.ones(2), "vocoder.x": torch.ones(2)}, "audio VAE or vocoder"),
        ({"model.diffusion_model.x": torch.ones(2)}, "nor an LTX-2 one.*for 720p LTX2_video_vae"),
    ],
)
def test_files_without_a_video_vae_are_refused(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(FileError, match=said):
        load_vae(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "change, said",
    [
        ({"per_channel_statistics.mean-of-means": None}, "isn't a complete LTX-2.3 VAE: 1 missing"),
        ({"decoder.up_blocks.0.res_blocks.0.conv1.conv.bias": None}, "1 missing"),
        ({"decoder.other": torch.ones(1)}, "1 unknown"),
        ({"decoder.conv_in.conv.bias": torch.ones(3)}, "has shape"),
        ({"decoder.conv_in.conv.bias": torch.full((64,), torch.nan)}, "no numbers"),
        ({"decoder.conv_in.conv.bias": torch.zeros(64, dtype=torch.int8)}, "quantized"),
        ({"decoder.conv_in.conv.bias": torch.zeros(0)}, "there is nothing in"),
        (
            {"encoder.down_blocks.0.res_blocks.0.conv1.conv.weight": None},
            "x.safetensors” can't be used.*no",
        ),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, said):
    tensors = {name: tensor for name, tensor in (weights("ltx23") | change).items() if tensor is not None}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(FileError, match=said):
        load_vae(tmp_path / "x.safetensors")


def test_another_latent_space_in_the_sizes_of_ltx23_is_said(caplog):
    """A file of these sizes would be large: what is read from it is enough."""
    for first, count in ((0.0222168, 0), (0.5, 1)):
        means = torch.full((128,), first, dtype=torch.bfloat16)
        warn_of_others(Path("x"), {"per_channel_statistics.mean-of-means": means}, LTX_2_3_SIZES)
        assert caplog.text.count("other statistics (LTX-2.5's") == count
    warn_of_others(Path("x"), {"per_channel_statistics.mean-of-means": torch.ones(4)}, sizes("ltx23"))
    assert caplog.text.count("other statistics") == 1


def test_it_is_read_where_a_draft_may_be_and_refused_as_one(tmp_path):
    path = ltx_file(tmp_path / "LTX2_video_vae_bf16.safetensors")
    assert isinstance(load_vae_or_draft(path, dtype=torch.float32), LtxVAE)
    read = read_vae_or_draft(path)
    assert (read.draft, read.config) == (None, sizes("ltx2", latent_channels=128))
    with pytest.raises(FileError, match=r"is a whole LTX-2 VAE, no draft decoder"):
        load_draft(path)
