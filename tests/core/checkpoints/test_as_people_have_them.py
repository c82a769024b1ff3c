"""Checkpoints as trainings and downloads leave them: names, dumps, missing ends, broken values."""

from __future__ import annotations

import json
import logging
import time

import pytest
import torch
from comfyui_sana_video.demo.model_set import seeded
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import (
    load_transformer,
    read_checkpoint,
)
from comfyui_sana_video.sana_video_core.config import DEMO
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.sana_video_core.files.fingerprint import weights_fingerprint
from comfyui_sana_video.sana_video_core.files.finite import check_finite
from comfyui_sana_video.sana_video_core.transformer.model import SanaVideo
from safetensors.torch import save_file
from support.checkpoint_files import CONFIG, WEIGHTS, diffusers_named, refusal

WRAPPERS = (
    "module",
    "_fsdp_wrapped_module",
    "_orig_mod",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_module",
)


def _loads(path):
    return read_checkpoint(path, config=CONFIG)


def _is_the_model(path):
    return weights_fingerprint(_loads(path).tensors) == weights_fingerprint(WEIGHTS)


def _inside(name, wrapper):
    """After every second part, as wrapped blocks and layers have it."""
    *stem, leaf = name.split(".")
    return ".".join([*(part if i % 2 else f"{wrapper}.{part}" for i, part in enumerate(stem)), leaf])


# --- names


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("spelled", [dict, diffusers_named], ids=["original", "diffusers"])
def test_names_that_training_leaves(tmp_path, wrapper, spelled):
    path = tmp_path / "m.safetensors"
    for rename in (
        lambda n: f"{wrapper}.{n}",
        lambda n: f"module.{wrapper}.{n}",
        lambda n: f"model.{wrapper}.{n}",
        lambda n: f"{wrapper}.generator_ema.model.{n}",
        lambda n: _inside(n, wrapper),
    ):
        save_file({rename(name): tensor for name, tensor in spelled(WEIGHTS).items()}, path)
        assert _is_the_model(path)


def test_a_name_with_and_without_wrappers(tmp_path):
    save_file(WEIGHTS | {"module.t_block.1.bias": torch.zeros(1)}, tmp_path / "m.safetensors")
    assert "t_block.1.bias twice" in refusal(lambda: _loads(tmp_path / "m.safetensors"), FileError)


def test_flattened_weights_are_named(tmp_path):
    save_file({"_fsdp_wrapped_module.flat_param": torch.zeros(9)}, tmp_path / "m.safetensors")
    assert "full state dict" in refusal(lambda: _loads(tmp_path / "m.safetensors"), FileError)


def test_an_average_of_torch(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1)).state_dict()
    count = {name: tensor for name, tensor in averaged.items() if "." not in name}
    assert len(count) == 1
    torch.save(count | {f"module.{n}": t for n, t in WEIGHTS.items()}, tmp_path / "m.pth")
    assert _is_the_model(tmp_path / "m.pth")


# --- dumps


@pytest.mark.parametrize(
    "key",
    ["state_dict", "generator", "generator_ema", "state_dict_ema", "model", "ema", "module", "my_network"],
)
def test_weights_under_any_key(tmp_path, key, caplog):
    optimiser = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    extras = {"optimizer": optimiser, "rng_state": {"torch": torch.zeros(8, dtype=torch.uint8)}, "step": 7}
    with caplog.at_level(logging.WARNING, "sana_video"):
        torch.save({key: {f"model.{n}": t for n, t in WEIGHTS.items()}, **extras}, tmp_path / "m.pt")
        assert _is_the_model(tmp_path / "m.pt")
    assert (f"“{key}” was taken" in caplog.text) == (key not in ("state_dict", "generator"))


def test_a_dictionary_in_a_dictionary(tmp_path):
    optimiser = {"state": {0: {"exp_avg": torch.ones(3)}}}
    for content in (
        {"model": {"state_dict": WEIGHTS, "name": "x"}, "epoch": 1},
        {"checkpoint": {"state_dict": WEIGHTS}, "optimizer": optimiser},
        {"app": {"model": WEIGHTS, "optim": optimiser}},
    ):
        torch.save(content, tmp_path / "m.pt")
        assert _is_the_model(tmp_path / "m.pt")


def test_the_student_beside_its_teacher(tmp_path, caplog):
    networks = {"student": WEIGHTS, "teacher": {n: t + 1 for n, t in WEIGHTS.items()}}
    flat = {f"{key}.{n}": t.clone() for key, network in networks.items() for n, t in network.items()}
    save_file(flat, tmp_path / "m.safetensors")
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert _is_the_model(tmp_path / "m.safetensors")
    assert "“student” was taken" in caplog.text


@pytest.mark.parametrize("prefix", ["model.", "model.diffusion_model.", "wrapped.model."])
@pytest.mark.parametrize("spelled", [dict, diffusers_named], ids=["original", "diffusers"])
def test_a_network_beside_other_parts(tmp_path, caplog, prefix, spelled):
    tensors = {f"{prefix}{n}": t for n, t in spelled(WEIGHTS).items()}
    save_file(tensors | {"vae.conv1.weight": torch.zeros(2)}, tmp_path / "m.safetensors")
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert _is_the_model(tmp_path / "m.safetensors")
    assert f"“{prefix[:-1]}” were taken" in caplog.text


def test_several_networks_under_unknown_prefixes(tmp_path):
    tensors = {f"{prefix}.{n}": t.clone() for prefix in ("a", "b") for n, t in WEIGHTS.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    assert "“a”, “b”" in refusal(lambda: _loads(tmp_path / "m.safetensors"), FileError)


def test_a_dump_without_named_weights_says_what_it_holds(tmp_path):
    torch.save({"shadow_params": list(WEIGHTS.values()), "decay": 0.9}, tmp_path / "m.pt")
    assert "“shadow_params”, “decay”" in refusal(lambda: _loads(tmp_path / "m.pt"), FileError)


def test_a_wide_dump_of_itself_is_refused_at_once(tmp_path):
    content: dict = {}
    content |= {f"part {i}": content for i in range(300)}
    torch.save(content, tmp_path / "m.pt")
    started = time.monotonic()
    assert "“part 0”" in refusal(lambda: _loads(tmp_path / "m.pt"), FileError)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("meant", "other"),
    [
        ("generator", "generator_ema"),
        ("state_dict", "state_dict_ema"),
        ("generator_ema", "critic"),
        ("ema", "critic"),
    ],
)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_of_several_networks_the_meant_one_is_taken_with_a_word(tmp_path, caplog, meant, other, kind):
    networks = {other: {n: t + 1 for n, t in WEIGHTS.items()}, meant: WEIGHTS}
    path = tmp_path / f"m.{kind}"
    if kind == "pt":
        torch.save(networks, path)
    else:
        save_file(
            {f"{key}.{n}": t.clone() for key, network in networks.items() for n, t in network.items()}, path
        )
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert _is_the_model(path)
    assert f"“{meant}” was taken" in caplog.text
    assert f"“{other}”" in caplog.text


@pytest.mark.parametrize("keys", [("critic",), ("first", "second"), ("fake_score", "real_score")])
def test_networks_of_which_none_is_known(tmp_path, keys):
    torch.save(dict.fromkeys(keys, WEIGHTS) | {"step": 1}, tmp_path / "m.pt")
    message = refusal(lambda: _loads(tmp_path / "m.pt"), FileError)
    assert all(f"“{key}”" in message for key in keys)


def test_a_dump_that_holds_itself(tmp_path):
    content: dict = {"step": 1}
    content["state_dict"] = content
    torch.save(content, tmp_path / "m.pt")
    assert "“step”, “state_dict”" in refusal(lambda: _loads(tmp_path / "m.pt"), FileError)


# --- whole files


@pytest.fixture(scope="module")
def demo():
    model = seeded(SanaVideo(DEMO.config, DEMO), 3)
    return {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}


def test_missing_last_blocks_of_known_sizes(tmp_path, demo):
    path = tmp_path / "m.safetensors"
    save_file(demo, path)
    assert read_checkpoint(path).config == DEMO.config  # with the head size of the known model
    for first in (5, 1):
        save_file(
            {n: t for n, t in demo.items() if not any(f"blocks.{b}." in n for b in range(first, 6))}, path
        )
        assert f"isn't whole: it has {first} blocks of 6" in refusal(lambda: read_checkpoint(path), FileError)


def test_missing_last_blocks_where_a_config_says_how_many(tmp_path):
    path = tmp_path / "m.safetensors"
    short = {name: tensor for name, tensor in WEIGHTS.items() if not name.startswith("blocks.1.")}
    save_file(short, path)
    assert "1 blocks of 2" in refusal(lambda: read_checkpoint(path, config=CONFIG), FileError)
    own = {"attention_head_dim": 20, "num_layers": 1}
    assert read_checkpoint(path, config=own).config.depth == 1
    (tmp_path / "config.json").write_text(json.dumps(own | {"num_layers": 2}))
    assert "1 blocks of 2" in refusal(lambda: read_checkpoint(path), FileError)
    refusal(lambda: read_checkpoint(path, config=own | {"num_layers": "1"}), InputError)


def test_an_unknown_depth_is_said_plainly(tmp_path, caplog):
    save_file(WEIGHTS, tmp_path / "m.safetensors")
    with caplog.at_level(logging.WARNING, "sana_video"):
        read_checkpoint(tmp_path / "m.safetensors", config={"attention_head_dim": 20})
    assert "has 2 blocks, and nothing says how many there should be" in caplog.text
    caplog.clear()
    _loads(tmp_path / "m.safetensors")
    assert not caplog.text


def test_reading_is_enough_to_see_what_is_missing(tmp_path):
    """`info` and the nodes read before they build."""
    save_file(
        {n: t for n, t in WEIGHTS.items() if n != "blocks.1.attn.proj.bias"}, tmp_path / "m.safetensors"
    )
    assert "1 missing" in refusal(lambda: _loads(tmp_path / "m.safetensors"), FileError)


@pytest.mark.parametrize("family", [0, "", 5, False, ["longsana_480p"], {}])
def test_a_family_of_a_wrong_kind_is_refused(tmp_path, family):
    config = json.dumps({"attention_head_dim": 20, "family": family})
    save_file(WEIGHTS, tmp_path / "m.safetensors", {"sana_video": "1", "config": config})
    assert "longsana_480p" in refusal(lambda: read_checkpoint(tmp_path / "m.safetensors"), InputError)


# --- values


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 77, -1])
def test_values_that_are_no_numbers(dtype, value, place, tmp_path):
    tensor = torch.ones(7, 23).to(dtype)
    check_finite({"a.b": tensor, "c": torch.zeros(0), "d": torch.tensor(1)}, tmp_path)
    wrong = torch.ones(7, 23)
    wrong.view(-1)[place] = value if dtype != torch.float8_e4m3fn else float("nan")  # it has no infinity
    message = refusal(lambda: check_finite({"a.b": wrong.to(dtype)}, tmp_path / "m.pth"), FileError)
    assert "a.b holds values that are no numbers" in message
    assert "“m.pth”" in message


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz])
def test_every_byte_of_float8(dtype):
    """Against torch's own values of the 256 bytes."""
    for byte in range(256):
        value = torch.tensor([0, byte], dtype=torch.uint8).view(dtype)
        if value.float().isfinite().all():
            check_finite({"a": value}, CONFIG)
        else:
            refusal(lambda value=value: check_finite({"a": value}, CONFIG), FileError)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_model_with_nan(tmp_path, kind):
    weights = {name: tensor.clone() for name, tensor in WEIGHTS.items()}
    weights["blocks.1.mlp.t_conv.weight"].view(-1)[-1] = float("nan")
    path = tmp_path / f"m.{kind}"
    save_file(weights, path) if kind == "safetensors" else torch.save(weights, path)
    assert "blocks.1.mlp.t_conv.weight" in refusal(lambda: load_transformer(path, config=CONFIG), FileError)


def test_quantised_models_and_plain_float8(tmp_path):
    path = tmp_path / "m.safetensors"
    narrow = {n: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for n, t in WEIGHTS.items()}
    save_file(narrow, path)
    model = load_transformer(path, config=CONFIG, dtype=torch.float32)
    assert torch.equal(model.state_dict()["t_block.1.weight"], narrow["t_block.1.weight"].float())
    save_file(narrow | {"blocks.0.attn.qkv.scale_weight": torch.ones(())}, path)
    assert "fp8_scaled" in refusal(lambda: read_checkpoint(path, config=CONFIG), FileError)
