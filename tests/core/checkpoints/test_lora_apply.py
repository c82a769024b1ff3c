"""LoRAs on weights: every kind, in order, rounded once, and nothing is written to.

That the bits are ComfyUI's is tried in tests/comfy/checks_loras.py.
"""

import json

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import load_transformer
from comfyui_sana_video.sana_video_core.checkpoints.lora import canonical_lora
from comfyui_sana_video.sana_video_core.checkpoints.lora_apply import (
    WeightChange,
    applied_lora,
    apply_loras,
    changed_weight,
    lora_content,
    parts_of_modules,
)
from comfyui_sana_video.sana_video_core.checkpoints.lora_file import read_lora
from safetensors.torch import save_file
from support.checkpoint_files import CONFIG, WEIGHTS, refusal
from support.lora_files import (
    NAMINGS,
    OTHERS,
    RANK,
    SHAPES,
    applied,
    dense_change,
    expected_weights,
    lora_file,
    random_tensor,
    same_tensors,
)
from support.pack import GOLDEN, assert_close

QKV = "blocks.0.attn.qkv.weight"


@pytest.fixture
def model():
    return load_transformer(GOLDEN / "weights_nvlabs.safetensors", config=CONFIG, family="sana_video_480p")


def _changed(lora, strength=1.0, weights=WEIGHTS):
    """All weights, with one LoRA."""
    out = dict(weights)
    for module, parts in parts_of_modules(lora.tensors).items():
        name, rows = lora.targets[module]
        out[name] = changed_weight(out[name], [WeightChange(parts, strength, rows)])
    return out


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_changes_what_it_names(naming):
    before = {name: tensor.clone() for name, tensor in WEIGHTS.items()}
    changed = _changed(canonical_lora(lora_file(NAMINGS[naming], "peft"), SHAPES))
    assert same_tensors(changed, expected_weights(NAMINGS[naming]))
    assert same_tensors(WEIGHTS, before)


@pytest.mark.parametrize("kind", OTHERS)
def test_every_kind(kind):
    module, parts = OTHERS[kind]
    lora = canonical_lora({f"{module}.{suffix}": part for suffix, part in parts.items()}, SHAPES)
    expected = applied(lora)
    for name, tensor in _changed(lora).items():
        assert_close(tensor, expected[name], 1e-6)
    half = _changed(lora, 0.5)
    for name, tensor in expected.items():
        assert_close(half[name] - WEIGHTS[name], (tensor - WEIGHTS[name]) / 2, 1e-5)


@pytest.mark.parametrize("rank, pair", [(3, "w1"), (2, "w2"), (2, "both")])
def test_a_lokr_is_scaled_by_alpha_over_the_rank_of_its_pair(rank, pair):
    """The second pair's, where there are two; two whole matrices are not scaled."""
    parts = {"lokr_w1": random_tensor(6, 4), "lokr_w2": random_tensor(10, 15)}
    for name, size in (("w1", 3), ("w2", 2)):
        if pair in (name, "both"):
            rows, columns = parts.pop(f"lokr_{name}").shape
            parts |= {
                f"lokr_{name}_a": random_tensor(rows, size),
                f"lokr_{name}_b": random_tensor(size, columns),
            }
    dense = dense_change(parts)
    zero = torch.zeros(60, 60)
    scaled = changed_weight(zero, [WeightChange(parts | {"alpha": torch.tensor(12.0)}, 1.0)])
    assert_close(scaled, dense * 12 / rank, 1e-6)
    whole = {"lokr_w1": random_tensor(6, 4), "lokr_w2": random_tensor(10, 15), "alpha": torch.tensor(12.0)}
    assert_close(changed_weight(zero, [WeightChange(whole, 1.0)]), dense_change(whole), 1e-6)


@pytest.mark.parametrize("strength", [1.0, 0.25, -1.0])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_dora_sets_lengths(axis, strength):
    weight, parts = random_tensor(12, 8, seed=4), {
        "lora_up.weight": random_tensor(12, RANK, seed=5),
        "lora_down.weight": random_tensor(RANK, 8, seed=6),
        "alpha": torch.tensor(2.0),
    }  # fmt: skip
    changed = weight + 0.5 * (parts["lora_up.weight"] @ parts["lora_down.weight"])
    if axis == "rows":
        scale = 1 + torch.rand(12, 1)
        full = changed * scale / weight.norm(dim=1, keepdim=True)
    else:
        scale = 1 + torch.rand(1, 8)
        full = changed * scale / changed.norm(dim=0, keepdim=True)
    out = changed_weight(weight, [WeightChange(parts | {"dora_scale": scale}, strength)])
    assert_close(out, weight + strength * (full - weight), 1e-5)


def test_one_after_the_other_rounded_once():
    one = torch.ones(4, 4, dtype=torch.bfloat16)
    small = WeightChange({"diff": torch.full((4, 4), 3e-3)}, 1.0)  # bfloat16 has steps of 2 ** -7 here
    assert torch.equal(changed_weight(one, [small]), one)
    twice = changed_weight(one, [small, small])
    assert twice.dtype == torch.bfloat16
    assert torch.equal(twice, torch.full_like(one, 1 + 2**-7))
    replaced = WeightChange({"set_weight": torch.full((2, 4), 5.0)}, 0.1, rows=(1, 2))
    assert changed_weight(one, [small, replaced, small]).float()[:, 0].tolist() == [
        1 + 2**-7,
        5,
        5,
        1 + 2**-7,
    ]


def test_a_model_is_changed_by_files_in_order(model, tmp_path):
    """Weights are new tensors: whoever shares the old ones keeps them."""
    before = dict(model.state_dict())
    copies = {name: tensor.clone() for name, tensor in before.items()}
    width = model.config.width
    paths = []
    for seed, name in enumerate(("snow", "rain")):
        paths.append(tmp_path / f"{name}.safetensors")
        pair = {"lora_A.weight": random_tensor(2, width, seed=seed), "lora_B.weight": random_tensor(width, 2)}
        tensors = {f"transformer_blocks.0.attn1.to_k.{end}": tensor for end, tensor in pair.items()}
        save_file(tensors | {"scale_shift_table.diff": random_tensor(2, width)}, paths[-1])
    loras = apply_loras(model, [(paths[0], 0.5), (paths[1], -1.0)])
    assert [lora.label for lora in loras] == ["snow 0.5", "rain -1"]
    assert same_tensors(before, copies)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {QKV, "final_layer.scale_shift_table"}
    rows = after[QKV] != before[QKV]
    assert [part.any().item() for part in rows.chunk(3)] == [False, True, False]
    shapes = {name: tensor.shape for name, tensor in before.items()}
    parts = [parts_of_modules(read_lora(path, shapes).tensors)["blocks.0.attn.k"] for path in paths]
    changes = [WeightChange(parts[0], 0.5, (width, width)), WeightChange(parts[1], -1.0, (width, width))]
    assert torch.equal(after[QKV], changed_weight(before[QKV], changes))


def test_nothing_is_changed_if_one_file_is_refused(model, tmp_path):
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file({"blocks.0.attn.proj.bias.diff": torch.ones(model.config.width)}, good)
    save_file({"blocks.0.attn.proj.bias.diff": torch.ones(3)}, bad)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "does not fit this model" in refusal(lambda: apply_loras(model, [(good, 1.0), (bad, 1.0)]))
    assert same_tensors(model.state_dict(), before)


def test_content_is_what_acts(tmp_path):
    """Not how a file spells or orders it; but PEFT's alpha lies beside the file."""
    file = lora_file(dict, "peft", alpha=False)
    content = lora_content(canonical_lora(file, SHAPES))
    assert len(content) == 64
    assert lora_content(canonical_lora(dict(reversed(file.items())), SHAPES)) == content
    assert lora_content(canonical_lora(lora_file(dict, "comfyui", alpha=False), SHAPES)) == content
    assert lora_content(canonical_lora(lora_file(dict, "peft", alpha=True), SHAPES)) != content
    name = next(iter(file))
    assert lora_content(canonical_lora(file | {name: file[name].half()}, SHAPES)) != content
    changed = file[name].clone()
    changed.view(-1)[-1] += 1
    assert lora_content(canonical_lora(file | {name: changed}, SHAPES)) != content

    folder = tmp_path / "snow"
    folder.mkdir()
    save_file(file, folder / "adapter_model.safetensors")
    found = set()
    for alpha in (4, 8):
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": alpha}))
        found.add(applied_lora(read_lora(folder, SHAPES), folder / "adapter_model.safetensors", 1.0))
    assert {lora.name for lora in found} == {"snow"}
    assert len({lora.content for lora in found}) == 2
