"""LoRAs as people have them: PEFT's config beside the file, names of training, and what falls away."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.lora_file import lora_name, read_lora
from comfyui_sana_video.sana_video_core.errors import FileError
from safetensors.torch import save_file
from support.checkpoint_files import WEIGHTS, refusal
from support.lora_files import SHAPES, applied, random_tensor

MODULE = "blocks.0.cross_attn.proj"
DOWN, UP = random_tensor(4, 60, seed=1), random_tensor(60, 4, seed=2)
PAIR = {f"base_model.model.{MODULE}.lora_A.weight": DOWN, f"base_model.model.{MODULE}.lora_B.weight": UP}
PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["proj"], "use_rslora": False}


def _write(folder, config=PEFT, tensors=PAIR, name="adapter_model.safetensors", metadata=None):
    folder.mkdir(exist_ok=True)
    path = folder / name
    save_file(tensors, path, metadata) if path.suffix == ".safetensors" else torch.save(tensors, path)
    if config is not None:
        (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def _scale(path):
    """How many times up @ down is added."""
    change = applied(read_lora(path, SHAPES))[f"{MODULE}.weight"] - WEIGHTS[f"{MODULE}.weight"]
    pair = UP @ DOWN
    scale = (change * pair).sum() / (pair * pair).sum()
    assert torch.allclose(change, scale * pair, atol=1e-5)
    return round(scale.item(), 4)


# --- strength


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "renamed.safetensors"])
def test_the_config_beside_a_file_says_its_alpha(tmp_path, name):
    assert _scale(_write(tmp_path / "a", name=name)) == 2
    assert _scale(_write(tmp_path / "b", name=name, config=None)) == 1
    if name.startswith("adapter"):
        assert _scale(_write(tmp_path / "c", name=name).parent) == 2


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({"lora_alpha": 16, "r": 32}, 4),  # by the rank that the file has (rank_pattern)
        ({"lora_alpha": 8, "use_rslora": True}, 4),
        ({"alpha_pattern": {"proj": 2}}, 0.5),
        ({"alpha_pattern": {f"^{MODULE}$": 2}}, 0.5),
        ({"alpha_pattern": {r"blocks\.\d+\.cross_attn\.proj": 2}}, 0.5),
        ({"alpha_pattern": {"qkv": 2}}, 2),
        ({"lora_alpha": None}, 1),
    ],
)
def test_what_a_config_can_say(tmp_path, changes, scale):
    assert _scale(_write(tmp_path, config=PEFT | changes)) == scale


def test_patterns_see_the_whole_name_too(tmp_path):
    tensors = {name.replace("model.blocks", "model.model.blocks"): t for name, t in PAIR.items()}
    config = PEFT | {"alpha_pattern": {f"^model.{MODULE}": 2}}
    assert _scale(_write(tmp_path, config=config, tensors=tensors)) == 0.5


def test_what_the_file_says_counts_first(tmp_path):
    own = {f"base_model.model.{MODULE}.alpha": torch.tensor(2.0)}
    assert _scale(_write(tmp_path / "a", tensors=PAIR | own)) == 0.5
    adapter = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 16})}
    assert _scale(_write(tmp_path / "b", metadata=adapter)) == 4
    silent = {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 16})}
    assert _scale(_write(tmp_path / "c", metadata=silent)) == 2


def test_a_config_among_several_loras_is_nobodys(tmp_path, caplog):
    first = _write(tmp_path, name="one.safetensors")
    (tmp_path / "optimizer.bin").touch()
    assert _scale(first) == 2
    _write(tmp_path, name="two.safetensors")
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert _scale(first) == 1
    assert "adapter_config.json" in caplog.text
    assert "how strong" in caplog.text


def test_a_lora_of_peft_that_says_nothing_of_its_strength(tmp_path, caplog):
    own = {f"base_model.model.{MODULE}.alpha": torch.tensor(4.0)}
    with caplog.at_level(logging.WARNING, "sana_video"):
        read_lora(_write(tmp_path / "a"), SHAPES)
        read_lora(_write(tmp_path / "b", config=None, tensors=PAIR | own), SHAPES)
        plain = {name.removeprefix("base_model.model."): t for name, t in PAIR.items()}
        read_lora(_write(tmp_path / "c", config=None, tensors=plain), SHAPES)  # diffusers: it is the rank
        assert not caplog.text
        assert _scale(_write(tmp_path / "d", config=None)) == 1
    assert "how strong it is" in caplog.text


def test_the_loras_of_a_distillation(tmp_path, caplog):
    """As LongLive's trainer saves them."""
    critic = {name: t + 1 for name, t in PAIR.items()}
    torch.save({"generator_lora": PAIR, "critic_lora": critic, "step": 3}, tmp_path / "lora.pt")
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert _scale(tmp_path / "lora.pt") == 1
    assert "“generator_lora” was taken" in caplog.text


def test_loha_and_lokr_of_peft(tmp_path):
    """The host divides an alpha by the rank, but scales two whole matrices of a LoKr by nothing."""
    loha = {f"hada_w{i}_{end}": (60, 4) if end == "a" else (4, 60) for i in "12" for end in "ab"}
    pair = {"lokr_w1": (6, 4), "lokr_w2_a": (10, 4), "lokr_w2_b": (4, 15)}
    whole = {"lokr_w1": (6, 4), "lokr_w2": (10, 15)}
    for kind, shapes in (("LOHA", loha), ("LOKR", pair), ("LOKR", whole)):
        tensors = {
            f"base_model.model.{MODULE}.{part}": random_tensor(*shape) for part, shape in shapes.items()
        }
        path = _write(tmp_path, config={"peft_type": kind, "r": 4, "alpha": 8}, tensors=tensors)
        made = {n.removeprefix(f"{MODULE}."): t for n, t in read_lora(path, SHAPES).tensors.items()}
        if shapes is whole:
            assert torch.equal(made["lokr_w1"], 2 * random_tensor(6, 4))
        else:
            assert made["alpha"] == 8
        assert made.keys() - {"alpha"} == shapes.keys()


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        {"lora_alpha": "much"},
        {"lora_alpha": [8]},
        {"lora_alpha": True},
        {"lora_alpha": float("nan")},
        {"lora_alpha": float("inf")},
        {"lora_alpha": 8, "alpha_pattern": [1]},
        {"lora_alpha": 8, "alpha_pattern": {"(": 1}},
        {"lora_alpha": 8, "alpha_pattern": {"(a+)+$": 1}},
        {"lora_alpha": 8, "alpha_pattern": {".*.*.*.*.*x": 1}},
        {"lora_alpha": 8, "alpha_pattern": {"proj": float("nan")}},
    ],
)
def test_configs_that_make_no_sense(tmp_path, config):
    refusal(lambda: read_lora(_write(tmp_path, config=config), SHAPES), FileError)


# --- what only looks like a LoRA


@pytest.mark.parametrize("kind", ["VERA", "IA3", "ADALORA", "OFT", 5, None])
def test_other_methods_are_refused_by_name(tmp_path, kind):
    path = _write(tmp_path, config=PEFT | {"peft_type": kind})
    assert str(kind) in refusal(lambda: read_lora(path, SHAPES), FileError)


def test_adalora_without_a_config(tmp_path):
    tensors = PAIR | {f"base_model.model.{MODULE}.lora_E": torch.ones(4, 1)}
    assert "ADALORA" in refusal(lambda: read_lora(_write(tmp_path, config=None, tensors=tensors), SHAPES))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "loftq"])
def test_a_lora_that_fits_only_a_changed_model(tmp_path, start):
    path = _write(tmp_path, config=PEFT | {"init_lora_weights": start})
    assert start in refusal(lambda: read_lora(path, SHAPES), FileError)
    assert _scale(_write(tmp_path, config=PEFT | {"init_lora_weights": "gaussian"})) == 2
    assert _scale(_write(tmp_path, config=PEFT | {"init_lora_weights": True})) == 2


def test_nan(tmp_path):
    broken = UP.clone()
    broken[3, 2] = float("nan")
    tensors = PAIR | {f"base_model.model.{MODULE}.lora_B.weight": broken}
    assert "lora_B.weight" in refusal(lambda: read_lora(_write(tmp_path, tensors=tensors), SHAPES), FileError)


# --- names of training


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: n.replace("model.blocks", "model.module.blocks"),
        lambda n: n.replace("blocks.0", "blocks._fsdp_wrapped_module.0"),
        lambda n: n.replace("blocks.0", "blocks.0._orig_mod"),
        lambda n: n.replace(".lora_", "._checkpoint_wrapped_module.lora_"),
        lambda n: f"module.{n}",
        lambda n: n.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
        *(
            lambda n, inner=inner: n.replace(f"base_model.model.{MODULE}", f"lora_unet_{inner}")
            for inner in (
                "blocks_0__orig_mod_cross_attn_proj",
                "_orig_mod_blocks_0_cross_attn_proj",
                "module_blocks_0_cross_attn_proj",
                "blocks__fsdp_wrapped_module_0_module_cross_attn_proj",
            )
        ),
    ],
)
def test_names_that_training_leaves(tmp_path, rename, caplog):
    tensors = {rename(name): tensor for name, tensor in PAIR.items()}
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert _scale(_write(tmp_path, tensors=tensors)) == 2
    assert not caplog.text


# --- what falls away


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("base_model.model.blocks.0.attn.proj.bias", "for biases"),
        (f"base_model.model.{MODULE}.lora_B.bias", "for biases"),
        ("transformer.transformer_blocks.0.attn1.to_q.diff_b", "for biases"),
        ("base_model.model.x_embedder.proj.weight", "for weights that were trained whole (modules_to_save)"),
        ("text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight", "for a text encoder"),
        ("lora_te1_model_layers_0_mlp_up_proj.alpha", "for a text encoder"),
        ("base_model.model.blocks.2.attn.qkv.lora_A.weight", "for blocks beyond its 2"),
        ("lora_unet_blocks_19_attn_qkv.lora_down.weight", "for blocks beyond its 2"),
        ("base_model.model.img_mlp.lora_A.weight", "for other parts"),
    ],
)
def test_what_falls_away_is_told(tmp_path, name, kind, caplog):
    path = _write(tmp_path, tensors=PAIR | {name: torch.ones(4)})
    with caplog.at_level(logging.WARNING, "sana_video"):
        assert read_lora(path, SHAPES).unused == (name,)
    assert (
        f"1 of 3 tensors were left out, because this model has no place for them: 1 {kind} ({name})"
        in caplog.text
    )


def test_a_folders_name_is_its_loras(tmp_path):
    assert lora_name(tmp_path / "loras" / "snow" / "adapter_model.safetensors") == "snow"
    assert lora_name(tmp_path / "loras" / "rain.safetensors") == "rain"
