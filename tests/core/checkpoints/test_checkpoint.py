"""Checkpoints: every format gives the same model, descriptions have ranks, and all else is refused."""

from __future__ import annotations

import json
import shutil
from functools import cache, partial
from itertools import product

import pytest
import torch
from comfyui_sana_video.demo.model_set import seeded
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import (
    load_transformer,
    read_checkpoint,
    save_transformer,
)
from comfyui_sana_video.sana_video_core.config import FAMILIES, TransformerConfig
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.sana_video_core.files.fingerprint import weights_fingerprint
from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo
from safetensors.torch import save_file
from support.checkpoint_files import (
    CONFIG,
    DIFFUSERS_WEIGHTS,
    FORMATS,
    WEIGHTS,
    cuts,
    diffusers_named,
    refusal,
    write_diffusers,
)
from support.pack import golden, same

HEADS_OF_20 = {"attention_head_dim": 20}
FAMILY_NAMES = ("sana_video_480p", "sana_video_720p", "longsana_480p")


@pytest.fixture
def plain(tmp_path):
    """The weights in a file that says nothing about them."""
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@cache
def _drawn(*, width: int = 224, head: int = 112, channels: int = 16, patch: int = 2):
    """A model with random weights, of a family that its channels fit."""
    rules = FAMILIES["sana_video_720p" if patch == 1 else "sana_video_480p"]
    sizes = {"channels": channels, "patch": patch, "width": width, "head_dim": head, "cross_head_dim": head}
    config = TransformerConfig(**sizes, depth=1, ffn_hidden=2 * width, caption_channels=8)
    return seeded(SanaVideo(config, rules), 3)


def _file_of(folder, name="model.safetensors", **sizes):
    save_file(_drawn(**sizes).state_dict(), folder / name)
    return folder / name


# --- every format


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_model(tmp_path, kind):
    path = FORMATS[kind](tmp_path, WEIGHTS)
    beside = path.is_dir() or kind == "ours"
    model = load_transformer(path, config=None if beside else CONFIG)
    parameters = model.state_dict()
    assert parameters.keys() == WEIGHTS.keys()
    assert all(same(parameters[name], WEIGHTS[name]) for name in WEIGHTS)
    assert model.fingerprint == weights_fingerprint(WEIGHTS) == weights_fingerprint(parameters)
    assert (model.config.width, model.config.head_dim, model.config.depth) == (60, 20, 2)


def test_a_diffusers_folder_computes_what_diffusers_computes(tmp_path):
    """The golden outputs are diffusers'; a wrong order of rows would load and differ."""
    g = golden("one_chunk")
    model = load_transformer(write_diffusers(tmp_path, WEIGHTS))
    assert (model(g["in_x"], g["in_t"], g["in_y"], g["in_mask"]) - g["out"]).abs().max() < 1e-4


def test_a_diffusers_model_after_fusing_its_projections(tmp_path):
    """This class keeps them apart (diffusers 0.42); whatever it saves has to load."""
    from diffusers import SanaVideoTransformer3DModel

    theirs = SanaVideoTransformer3DModel.from_pretrained(write_diffusers(tmp_path / "a", WEIGHTS))
    theirs.fuse_qkv_projections()
    theirs.save_pretrained(tmp_path / "b")
    assert load_transformer(tmp_path / "b").fingerprint == weights_fingerprint(WEIGHTS)


@pytest.mark.parametrize("kind", ["original", "safetensors", "diffusers", "ours"])
def test_bf16_files(tmp_path, kind):
    """A bf16 file and its float32 twin have the same fingerprint, another file has another."""
    rounded = {name: tensor.bfloat16() for name, tensor in WEIGHTS.items()}
    (tmp_path / "narrow").mkdir()
    path = FORMATS[kind](tmp_path / "narrow", rounded)
    config = None if path.is_dir() else CONFIG
    narrow = load_transformer(path, config=config)
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}
    assert all(same(tensor, rounded[name]) for name, tensor in narrow.state_dict().items())
    (tmp_path / "wide").mkdir()
    wide = FORMATS[kind](tmp_path / "wide", {name: tensor.float() for name, tensor in rounded.items()})
    assert load_transformer(wide, config=config).fingerprint == narrow.fingerprint
    assert narrow.fingerprint != weights_fingerprint(WEIGHTS)


def test_dtype_casts_and_keeps_the_fingerprint_of_the_file(plain):
    model = load_transformer(plain, config=CONFIG, dtype=torch.bfloat16, device="cpu")
    assert all(same(tensor, WEIGHTS[name].bfloat16()) for name, tensor in model.state_dict().items())
    assert model.fingerprint == weights_fingerprint(WEIGHTS)
    half = load_transformer(plain, config=CONFIG, dtype=torch.float16)
    assert half.dtype == torch.float16


def test_a_loaded_model_is_ready_and_no_weights_were_drawn_for_it(plain):
    before = torch.random.get_rng_state()
    model = load_transformer(plain, config=CONFIG)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}


@pytest.mark.parametrize("begin", range(0, 64, 8))
def test_numbers_do_not_depend_on_where_a_file_is_mapped(tmp_path, begin):
    """A longer header moves the tensors; a CPU's sums depend on where they begin."""
    path = tmp_path / "model.safetensors"
    save_file(WEIGHTS, path, {"note": "." * begin})
    model = load_transformer(path, config=CONFIG)
    assert all(parameter.data_ptr() % 64 == 0 for parameter in model.parameters())
    assert all(same(tensor, WEIGHTS[name]) for name, tensor in model.state_dict().items())


def test_a_hosts_layer_classes_are_used(plain):
    class Operations:
        class Linear(torch.nn.Linear):
            pass

        Conv2d, Conv3d, LayerNorm, RMSNorm = (
            getattr(torch.nn, n) for n in ("Conv2d", "Conv3d", "LayerNorm", "RMSNorm")
        )

    model = load_transformer(plain, config=CONFIG, operations=Operations)
    assert isinstance(model.blocks[0].attn.proj, Operations.Linear)


def test_our_file_keeps_its_description(tmp_path):
    model = _drawn(width=60, head=20)
    save_transformer(
        tmp_path / "m.safetensors",
        model.state_dict(),
        model.config,
        "longsana_480p",
        system_prompt="Ü: ",
        note={"made by": "a test"},
    )
    checkpoint = read_checkpoint(tmp_path / "m.safetensors")
    assert (checkpoint.config, checkpoint.family.name) == (model.config, "longsana_480p")
    assert (checkpoint.system_prompt, checkpoint.source) == ("Ü: ", "this pack's file")
    assert read_checkpoint(_file_of(tmp_path)).system_prompt is None


@pytest.mark.parametrize(
    "kind, source", [("original", "original"), ("diffusers", "diffusers"), ("ours", "this pack's file")]
)
def test_the_source_is_named(tmp_path, kind, source):
    assert read_checkpoint(FORMATS[kind](tmp_path, WEIGHTS), config=CONFIG).source == source


# --- the size of a head: argument, metadata, config.json beside, 112


def _with_metadata(path, config, **more):
    save_file(WEIGHTS, path, {"sana_video": "1", "config": json.dumps(config), **more})


def test_head_size_goes_by_rank(tmp_path, plain):
    beside = tmp_path / "config.json"
    beside.write_text(json.dumps({"attention_head_dim": 6}))
    assert read_checkpoint(plain).config.head_dim == 6
    _with_metadata(plain, {"attention_head_dim": 30, "cross_attention_head_dim": 10})
    config = read_checkpoint(plain).config
    assert (config.head_dim, config.cross_head_dim) == (30, 10)
    for argument in (HEADS_OF_20 | {"cross_attention_head_dim": 12}, CONFIG, str(CONFIG)):
        config = read_checkpoint(plain, config=argument).config
        assert config.head_dim == 20
        assert config.cross_head_dim == (12 if isinstance(argument, dict) else 20)


def test_an_argument_hides_only_what_it_says(tmp_path, plain):
    """A config.json of diffusers, given for the head size, must not make a causal file bidirectional."""
    _with_metadata(plain, {"attention_head_dim": 30, "family": "longsana_480p"})
    checkpoint = read_checkpoint(plain, config=CONFIG)
    assert (checkpoint.config.head_dim, checkpoint.family.name) == (20, "longsana_480p")
    assert read_checkpoint(plain, config={"family": "sana_video_480p"}).config.head_dim == 30


def test_an_unnamed_head_size_is_112_where_that_divides(tmp_path):
    assert read_checkpoint(_file_of(tmp_path)).config.head_dim == 112
    sizes = read_checkpoint(_file_of(tmp_path), config=HEADS_OF_20 | {"attention_head_dim": 56})
    assert (sizes.config.head_dim, sizes.config.cross_head_dim, sizes.config.heads) == (56, 56, 4)


def test_an_unnamed_head_size_that_cannot_be_112(plain):
    message = refusal(lambda: load_transformer(plain), FileError)
    assert "60" in message
    assert "config.json" in message


@pytest.mark.parametrize(
    "key, head",
    [
        *product(
            ("attention_head_dim", "cross_attention_head_dim"),
            (7, 0, -20, "20", 20.0, True, [20], {}, float("inf"), 2**70),
        ),
        *product(("attention_head_dim",), (1, 4, 5)),  # rotary positions on three axes need an even 6
    ],
)
def test_impossible_head_sizes(plain, key, head):
    refusal(lambda: load_transformer(plain, config=HEADS_OF_20 | {key: head}), InputError)


def test_files_that_are_no_config(tmp_path, plain):
    for content in ("", "{", "[]", "null", "[" * 100_000):
        (tmp_path / "c.json").write_text(content)
        assert "c.json" in refusal(lambda: load_transformer(plain, config=tmp_path / "c.json"), FileError)
    assert "nowhere.json" in refusal(
        lambda: load_transformer(plain, config=tmp_path / "nowhere.json"), FileError
    )
    refusal(lambda: load_transformer(plain, config=tmp_path), FileError)


def test_another_models_config_beside_a_file_is_ignored(tmp_path):
    """Folders of ComfyUI hold files of many models; 32 divides this width, and would be silently wrong."""
    path = _file_of(tmp_path)
    for foreign in (
        {"_class_name": "WanTransformer3DModel", "attention_head_dim": 32},
        {"model_type": "gemma2", "num_layers": 26, "quantization_config": {"quant_method": "gptq"}},
    ):
        (tmp_path / "config.json").write_text(json.dumps(foreign))
        assert read_checkpoint(path).config.head_dim == 112
    for class_name in ("SanaVideoTransformer3DModel", "SanaVideoCausalTransformer3DModel"):
        (tmp_path / "config.json").write_text(
            json.dumps({"_class_name": class_name, "attention_head_dim": 32})
        )
        assert read_checkpoint(path).config.head_dim == 32


@pytest.mark.parametrize("config", ["", "{", "[]", "null", '"words"', None])
def test_malformed_metadata(tmp_path, config):
    metadata = {"sana_video": "1"} | ({} if config is None else {"config": config})
    save_file(WEIGHTS, tmp_path / "m.safetensors", metadata)
    assert "m.safetensors" in refusal(lambda: load_transformer(tmp_path / "m.safetensors"), FileError)


@pytest.mark.parametrize("version", ["2", "0", "", "one"])
def test_another_format_version(tmp_path, version):
    _with_metadata(tmp_path / "m.safetensors", HEADS_OF_20, sana_video=version)
    message = refusal(lambda: load_transformer(tmp_path / "m.safetensors"), FileError)
    assert "Update the pack" in message


# --- the family: argument, metadata, diffusers' class, the file's name


@pytest.mark.parametrize(
    "name, family",
    [
        ("model.safetensors", "sana_video_480p"),
        ("SANA_Video_2B_480p_LongLive.pth", "longsana_480p"),
        ("LongSANA_2B_480p_ode.pt", "longsana_480p"),
        # only a file's own name counts, as in diffusers' converter
        ("longlive/model.safetensors", "sana_video_480p"),
        ("SANA-Video_2B_480p_LongLive_diffusers/", "longsana_480p"),
        ("SANA-Video_2B_480p_LongLive_diffusers/transformer/", "longsana_480p"),
        ("SANA-Video_2B_480p_diffusers/", "sana_video_480p"),
    ],
)
def test_family_by_name(tmp_path, monkeypatch, name, family):
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir(parents=True)
        save_file(diffusers_named(WEIGHTS), path / DIFFUSERS_WEIGHTS)
        shutil.copy(CONFIG, path / "config.json")
    else:
        path.parent.mkdir(exist_ok=True)
        (save_file if path.suffix == ".safetensors" else torch.save)(WEIGHTS, path)
    assert read_checkpoint(path, config=CONFIG).family.name == family
    if path.is_dir():  # also when the path no longer says it
        monkeypatch.chdir(path)
        assert read_checkpoint(".").family.name == family


def test_family_goes_by_rank(tmp_path):
    path = tmp_path / "longlive.safetensors"
    save_file(WEIGHTS, path)
    causal = {"_class_name": "SanaVideoCausalTransformer3DModel", **HEADS_OF_20}
    assert read_checkpoint(path, config=CONFIG).family.name == "longsana_480p"
    _with_metadata(path, HEADS_OF_20 | {"family": "sana_video_480p"})
    assert read_checkpoint(path).family.name == "sana_video_480p"
    assert read_checkpoint(path, config=causal).family.name == "sana_video_480p"
    assert read_checkpoint(path, family="longsana_480p").family.name == "longsana_480p"
    save_file(WEIGHTS, tmp_path / "neutral.safetensors")
    assert read_checkpoint(tmp_path / "neutral.safetensors", config=causal).family.name == "longsana_480p"


def test_family_of_a_720p_file_shows_in_its_sizes(tmp_path):
    assert read_checkpoint(_file_of(tmp_path, channels=128, patch=1)).family.name == "sana_video_720p"


@pytest.mark.parametrize(
    "sizes, family",
    [
        ({}, "sana_video_720p"),
        ({"channels": 128, "patch": 1}, "sana_video_480p"),
        ({"channels": 128, "patch": 1}, "longsana_480p"),
        ({"channels": 32, "patch": 1}, None),
        ({"channels": 16, "patch": 1}, None),
        ({"channels": 32, "patch": 2}, None),
        ({"channels": 128, "patch": 2}, "sana_video_720p"),
    ],
)
def test_a_family_that_the_file_contradicts(tmp_path, sizes, family):
    path = _file_of(tmp_path, **sizes)
    message = refusal(partial(load_transformer, path, family=family), InputError)
    assert f"{sizes.get('channels', 16)} latent channels" in message
    assert (family or "sana_video") in message


@pytest.mark.parametrize("family", ["wan", "LONGSANA_480P", "['a']"])
def test_an_unknown_family(plain, family):
    message = refusal(lambda: load_transformer(plain, config=CONFIG, family=family), InputError)
    assert all(name in message for name in FAMILY_NAMES)


@pytest.mark.parametrize("family", ["wan", 5, ["longsana_480p"], {"a": 1}, True])
def test_an_unknown_family_in_the_metadata(plain, family):
    _with_metadata(plain, HEADS_OF_20 | {"family": family})
    assert "longsana_480p" in refusal(lambda: load_transformer(plain), InputError)
    assert load_transformer(plain, family="longsana_480p").family.causal


# --- what isn't a complete transformer


def _changed(**changes):
    return {name: tensor for name, tensor in {**WEIGHTS, **changes}.items() if tensor is not None}


def test_every_missing_tensor_is_noticed(tmp_path, subtests):
    path = tmp_path / "m.safetensors"
    for name in WEIGHTS:
        with subtests.test(name=name):
            save_file(_changed(**{name: None}), path)
            assert path.name in refusal(lambda: load_transformer(path, config=CONFIG), FileError)


def _wrong_tensors(tensor):
    return {
        "no axes": torch.tensor(1.0),
        "nothing": torch.zeros(0),
        "one axis": torch.zeros(7),
        "an axis more": tensor.unsqueeze(0),
        "one row more": torch.cat([tensor, tensor[:1]]),
        "integers": tensor.to(torch.int8),
    }


def test_every_wrong_tensor_is_noticed(tmp_path, subtests):
    path = tmp_path / "m.safetensors"
    for name, tensor in WEIGHTS.items():
        for change, wrong in _wrong_tensors(tensor).items():
            with subtests.test(name=name, change=change):
                save_file(_changed(**{name: wrong}), path)
                refusal(lambda: load_transformer(path, config=CONFIG))


def test_extra_and_missing_names_are_named(tmp_path):
    path = tmp_path / "m.safetensors"
    for changes, words in (
        ({"blocks.0.attn.extra": torch.zeros(1)}, "1 unknown (blocks.0.attn.extra)"),
        ({"blocks.1.attn.proj.bias": None}, "1 missing (blocks.1.attn.proj.bias)"),
        ({"blocks.x": torch.zeros(1)}, "blocks.x"),
        ({"pos_embed.x": torch.zeros(1)}, "1 unknown (pos_embed.x)"),
    ):
        save_file(_changed(**changes), path)
        assert words in refusal(lambda: load_transformer(path, config=CONFIG), FileError)


def test_a_block_missing_in_the_middle(tmp_path):
    torch.save({n.replace("blocks.1.", "blocks.2."): t for n, t in WEIGHTS.items()}, tmp_path / "m.pth")
    message = refusal(lambda: load_transformer(tmp_path / "m.pth", config=CONFIG), FileError)
    assert "20 missing (blocks.1." in message
    assert "20 unknown (blocks.2." in message


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"weight": torch.zeros(3)},
        {
            f"{n}.lora_{part}.weight": torch.zeros(4, 4)
            for n in ("blocks.0.attn.qkv", "blocks.1.attn.qkv")
            for part in "AB"
        },
        {f"transformer.{n}": t for n, t in list(WEIGHTS.items())[:5]} | {"vae.x": torch.zeros(1)},
        {"encoder.conv1.weight": torch.zeros(8, 3, 3, 3, 3), "decoder.head.0.gamma": torch.zeros(8, 1, 1, 1)},
    ],
    ids=["nothing", "anything", "lora", "a part", "vae"],
)
def test_other_files_are_not_a_transformer(tmp_path, tensors):
    save_file(tensors, tmp_path / "m.safetensors")
    message = refusal(lambda: load_transformer(tmp_path / "m.safetensors", config=CONFIG), FileError)
    assert "isn't a SANA-Video transformer" in message
    assert f"{len(tensors)} tensors" in message


def test_folders_without_a_transformer(tmp_path):
    refusal(lambda: load_transformer(tmp_path), FileError)
    (tmp_path / "transformer").mkdir()
    assert DIFFUSERS_WEIGHTS in refusal(lambda: load_transformer(tmp_path), FileError)
    for name in ("nowhere.pth", "x" * 300):
        refusal(partial(load_transformer, tmp_path / name), FileError)


def test_a_missing_shard_is_named(tmp_path):
    FORMATS["diffusers_sharded"](tmp_path, WEIGHTS)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refusal(lambda: load_transformer(tmp_path), FileError)


@pytest.mark.parametrize("kind", ["original", "original_old_torch", "ours"])
def test_truncated_checkpoints(tmp_path, kind):
    path = FORMATS[kind](tmp_path, WEIGHTS)
    whole = path.read_bytes()
    for length in cuts(len(whole)):
        path.write_bytes(whole[:length])
        assert path.name in refusal(lambda: load_transformer(path, config=CONFIG), FileError)


def test_the_fingerprint_tells_names_shapes_and_values_apart():
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    others = (
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(1.0, 7.0), "b": torch.ones(2)},
        {"a": torch.arange(6.0)},
    )
    names = {weights_fingerprint(weights) for weights in (base, *others)}
    assert len(names) == 5
    assert weights_fingerprint(dict(reversed(base.items()))) in names
