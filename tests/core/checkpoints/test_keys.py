"""Every spelling of a name becomes the original's and rows keep their order; fingerprints; VAE files."""

from __future__ import annotations

import json
import re
from functools import cache, partial

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.keys import (
    canonical_module,
    canonical_transformer,
    canonical_vae,
    fused_parts,
    without_prefix,
)
from comfyui_sana_video.sana_video_core.checkpoints.vae_file import load_vae
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.fingerprint import SAMPLES, weights_fingerprint
from safetensors.torch import save_file
from support.checkpoint_files import CONFIG, WEIGHTS, cuts, diffusers_named, refusal, split
from support.pack import DATA

KEYMAP: dict[str, str] = json.loads((DATA / "wan_vae_keymap.json").read_text())


def _same(actual, expected=WEIGHTS) -> bool:
    return actual.keys() == expected.keys() and all(torch.equal(actual[n], expected[n]) for n in expected)


@pytest.mark.parametrize(
    "spelled",
    [
        dict(WEIGHTS),
        diffusers_named(WEIGHTS),
        diffusers_named(WEIGHTS, fused=True),
        split(WEIGHTS, "{}"),
        split(WEIGHTS, "to_{}"),
    ],
    ids=["original", "diffusers", "diffusers_fused", "split", "split_to"],
)
@pytest.mark.parametrize("prefix", ["", "model.", "transformer.", "model.diffusion_model.", "model.model."])
def test_every_spelling_becomes_the_original(spelled, prefix):
    assert _same(canonical_transformer({prefix + name: tensor for name, tensor in spelled.items()}))


def test_the_table_here_is_diffusers_own():
    """The other tests trust `diffusers_named`: its names and shapes are diffusers' own."""
    from diffusers import SanaVideoTransformer3DModel

    model = SanaVideoTransformer3DModel.from_config(SanaVideoTransformer3DModel.load_config(CONFIG))
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in diffusers_named(WEIGHTS).items()} == expected


def test_rows_of_fused_tensors_are_q_k_v():
    parts = {f"blocks.0.attn.{part}.weight": torch.full((2, 3), value) for value, part in enumerate("qkv")}
    parts |= {
        f"blocks.12.cross_attn.{part}.bias": torch.full((2,), 5 + value) for value, part in enumerate("kv")
    }
    fused = canonical_transformer(dict(reversed(parts.items())))  # the order in a file means nothing
    assert fused["blocks.0.attn.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert fused["blocks.12.cross_attn.kv_linear.bias"].tolist() == [5, 5, 6, 6]
    assert len(fused) == 2


def test_incomplete_parts_are_left_for_the_loader_to_name():
    left = canonical_transformer(
        {"blocks.0.attn.q.weight": torch.zeros(2), "blocks.0.attn.v.weight": torch.ones(2)}
    )
    assert left.keys() == {"blocks.0.attn.q.weight", "blocks.0.attn.v.weight"}


@pytest.mark.parametrize("shape", [(60, 59), (59, 60), (60,), ()])
def test_parts_of_unequal_shapes_are_refused(shape):
    """61 and 59 rows would make the right sum, and wrong heads."""
    spelled = split(WEIGHTS, "{}") | {"blocks.1.attn.k.weight": torch.zeros(shape)}
    message = refusal(lambda: canonical_transformer(spelled), FileError)
    assert "blocks.1.attn.k.weight" in message
    assert str(list(shape)) in message


@pytest.mark.parametrize("flat", [False, True])
def test_names_of_modules_are_those_of_their_parameters(flat):
    for name in WEIGHTS:
        for spelled in diffusers_named({name: WEIGHTS[name]}):
            (original,) = canonical_transformer({spelled: WEIGHTS[name]})
            module = re.sub(r"\.(weight|bias)$", "", spelled)
            module = module.replace(".", "_") if flat else module
            assert canonical_module(module, flat=flat) == re.sub(r"\.(weight|bias)$", "", original)
            if not flat:
                assert canonical_module(spelled) == original
                assert canonical_module(original) == original


def test_parts_of_fused_parameters():
    assert fused_parts("blocks.12.attn.qkv.weight") == [f"blocks.12.attn.{p}.weight" for p in "qkv"]
    assert fused_parts("blocks.0.cross_attn.kv_linear.bias") == [
        f"blocks.0.cross_attn.{p}.bias" for p in "kv"
    ]
    others = [name for name in WEIGHTS if ".qkv." not in name and ".kv_linear." not in name]
    assert not any(fused_parts(name) for name in (*others, "attn.qkv.weight", "blocks.0.mlp.qkv.weight"))


def test_only_what_no_model_uses_is_dropped():
    extras = {
        name: torch.zeros(1)
        for name in ("y_embedder.y_embedding", "pos_embed", "logvar_linear.weight", "logvar_linear.bias")
    }
    assert _same(canonical_transformer(WEIGHTS | extras))
    for name in ("pos_embed.proj", "blocks.0.pos_embed", "y_embedder.y_embedding.0", "logvar_linear"):
        assert name in canonical_transformer(WEIGHTS | {name: torch.zeros(1)})


def test_blocks_past_nine_keep_their_numbers():
    moved = {name.replace("blocks.1.", "blocks.19."): tensor for name, tensor in WEIGHTS.items()}
    assert _same(canonical_transformer(diffusers_named(moved)), moved)


def test_a_prefix_is_removed_only_where_all_names_share_it():
    mixed = {"model.a": torch.zeros(1), "other.b": torch.zeros(1)}
    assert without_prefix(mixed).keys() == mixed.keys()
    assert without_prefix({}) == {}
    assert without_prefix({"model.a": 1, "model.b": 2}) == {"a": 1, "b": 2}


def test_the_callers_mapping_stays_as_it_was():
    weights = split(WEIGHTS, "{}")
    before = dict(weights)
    canonical_transformer(weights)
    assert weights.keys() == before.keys()
    assert all(weights[name] is before[name] for name in before)


# --- the VAE


def test_all_vae_names_are_those_of_the_independent_map():
    assert len(KEYMAP) == 194
    assert canonical_vae({name: name for name in KEYMAP}) == {
        original: name for name, original in KEYMAP.items()
    }


def test_original_vae_names_stay():
    assert canonical_vae({name: name for name in KEYMAP.values()}) == {name: name for name in KEYMAP.values()}


def test_no_diffusers_vae_name_is_also_an_original_one():
    """So the loader can tell the spellings apart by one name."""
    assert "encoder.conv_in.weight" in KEYMAP
    assert "encoder.conv_in.weight" not in KEYMAP.values()
    assert not any(re.search("(up|down)_blocks|conv_in|quant_conv", name) for name in KEYMAP.values())


# --- the fingerprint


def test_fingerprint_is_the_same_in_every_version():
    """A state remembers its model by it: with another rule, every saved state would be refused."""
    published = "4c7f86a9bb8e6685a123a1ae42ce466da0efdec153feed7880115c6d8955328b"
    assert weights_fingerprint(WEIGHTS) == published


def test_fingerprint_does_not_depend_on_order_or_layout():
    other = {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in reversed(WEIGHTS.items())}
    assert weights_fingerprint(other) == weights_fingerprint(WEIGHTS)


def test_fingerprint_is_the_same_in_a_wider_type_only_if_the_values_are():
    for narrow in (torch.bfloat16, torch.float16):
        small = {name: tensor.to(narrow) for name, tensor in WEIGHTS.items()}
        wide = {name: tensor.float() for name, tensor in small.items()}
        assert weights_fingerprint(small) == weights_fingerprint(wide)
        assert weights_fingerprint(small) != weights_fingerprint(WEIGHTS)


def test_fingerprint_sees_every_tensor(subtests):
    """Its values, the first and the last one, its shape, its name, and that it is there."""
    original = weights_fingerprint(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        ends = []
        for place in (0, -1):
            changed = tensor.clone()
            changed.view(-1)[place] += 1
            ends.append(changed)
        without = {key: value for key, value in WEIGHTS.items() if key != name}
        with subtests.test(name=name):
            for other in (tensor + 1e-3, *ends, tensor.unsqueeze(0)):
                assert weights_fingerprint(WEIGHTS | {name: other}) != original
            assert weights_fingerprint(without) != original
            assert weights_fingerprint(without | {name + "_": tensor}) != original


@pytest.mark.parametrize("count", [0, 1, 2, SAMPLES - 1, SAMPLES, SAMPLES + 1, 3 * SAMPLES])
def test_fingerprint_of_any_size(count):
    values = torch.arange(count, dtype=torch.float32)
    fingerprint = weights_fingerprint({"a": values})
    assert fingerprint != weights_fingerprint({"a": values[:-1]}) or not count
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)
    if 0 < count <= SAMPLES:  # every value counts
        for place in range(count):
            assert weights_fingerprint({"a": values.index_fill(0, torch.tensor(place), -1)}) != fingerprint
    assert weights_fingerprint({"a": torch.tensor(1.0)}) != weights_fingerprint({"a": torch.tensor(2.0)})


# --- files of the VAE


@cache
def _vae():
    """diffusers' VAE at a small width; random weights."""
    from diffusers import AutoencoderKLWan

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKLWan(base_dim=4)


def _vae_weights():
    return {KEYMAP[name]: tensor for name, tensor in _vae().state_dict().items()}


def _vae_folder(folder):
    _vae().save_pretrained(folder)
    return folder


def _vae_pipeline(folder):
    _vae().save_pretrained(folder / "vae")
    return folder


def _vae_file(folder, weights=None, prefix=""):
    weights = _vae_weights() if weights is None else weights
    save_file({prefix + name: tensor for name, tensor in weights.items()}, folder / "vae.safetensors")
    return folder / "vae.safetensors"


def _vae_pickle(folder):
    torch.save(_vae_weights(), folder / "Wan2.1_VAE.pth")
    return folder / "Wan2.1_VAE.pth"


VAE_FORMATS = {
    "diffusers": _vae_folder,
    "pipeline": _vae_pipeline,
    "diffusers_file": lambda folder: _vae_folder(folder) / "diffusion_pytorch_model.safetensors",
    "original": _vae_file,
    "original_pth": _vae_pickle,
    "prefixed": lambda folder: _vae_file(folder, prefix="model."),
}


@pytest.mark.parametrize("kind", VAE_FORMATS)
def test_every_format_gives_the_same_vae(tmp_path, kind):
    before = torch.random.get_rng_state()
    vae = load_vae(VAE_FORMATS[kind](tmp_path))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert _same(vae.state_dict(), _vae_weights())
    assert (vae.config.base_width, vae.config.latent_channels) == (4, 16)
    assert not vae.training
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def test_vae_dtype(tmp_path):
    path = _vae_file(tmp_path, {name: tensor.bfloat16() for name, tensor in _vae_weights().items()})
    assert {parameter.dtype for parameter in load_vae(path).parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in load_vae(path, dtype=torch.float32).parameters()} == {
        torch.float32
    }


CHANGES = ("missing", "no axes", "nothing", "an axis more", "one row more", "integers")
SHOWS_SIZES = re.compile(
    r"encoder\.conv1\.weight|conv2\.weight|encoder\.downsamples\.\d+\.residual\.2\.weight"
)


def test_every_wrong_vae_tensor_is_noticed(tmp_path, subtests):
    right = _vae_weights()
    for number, name in enumerate(KEYMAP.values()):
        weights = dict(right)
        tensor = weights.pop(name)
        wrong = {
            "no axes": torch.tensor(1.0),
            "nothing": torch.zeros(0),
            "an axis more": tensor.unsqueeze(0),
            "one row more": torch.cat([tensor, tensor[:1]]),
            "integers": tensor.to(torch.int8),
        }
        for place, change in enumerate(CHANGES):
            # every change where sizes are read, one of them elsewhere
            if SHOWS_SIZES.fullmatch(name) or number % len(CHANGES) == place:
                with subtests.test(name=name, change=change):
                    changed = {} if change == "missing" else {name: wrong[change]}
                    path = _vae_file(tmp_path, weights | changed)
                    refusal(lambda path=path: load_vae(path))


def test_a_vae_with_nan_and_one_with_wrapped_names(tmp_path):
    weights = _vae_weights()
    path = _vae_file(tmp_path, weights, prefix="module.")
    assert _same(load_vae(path).state_dict(), weights)
    broken = weights["decoder.conv1.bias"].clone()
    broken[0] = float("nan")
    path = _vae_file(tmp_path, weights | {"decoder.conv1.bias": broken})
    assert "decoder.conv1.bias" in refusal(lambda: load_vae(path), FileError)


def test_a_vae_with_an_extra_name(tmp_path):
    path = _vae_file(tmp_path, _vae_weights() | {"extra": torch.zeros(1)})
    assert "1 unknown (extra)" in refusal(lambda: load_vae(path), FileError)


def test_other_files_are_not_a_vae(tmp_path):
    for weights in (
        WEIGHTS,
        {},
        {"encoder.conv_in.weight": torch.zeros(1), "decoder.conv_in.weight": torch.zeros(1)},
    ):
        path = _vae_file(tmp_path, weights)
        message = refusal(partial(load_vae, path), FileError)
        assert "isn't a Wan 2.1 VAE" in message
        assert "wan_2.1_vae.safetensors" in message
    refusal(lambda: load_vae(tmp_path), FileError)
    refusal(lambda: load_vae(tmp_path / "nowhere"), FileError)


def test_truncated_vae(tmp_path):
    path = _vae_pickle(tmp_path)
    whole = path.read_bytes()
    for length in cuts(len(whole)):
        path.write_bytes(whole[:length])
        assert path.name in refusal(lambda: load_vae(path), FileError)
