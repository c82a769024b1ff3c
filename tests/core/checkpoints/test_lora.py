"""LoRA files: every spelling makes the same change, and nothing is lost.

`applied` does what ComfyUI does with the result. Expected is the same change made to weights in the file's
spelling, and what diffusers' network computes with low-rank paths beside its layers, as PEFT puts them there.
"""

from __future__ import annotations

import json

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.lora import LoraTarget, canonical_lora
from comfyui_sana_video.sana_video_core.errors import FileError
from support import checks_diffusers
from support.checkpoint_files import WEIGHTS, diffusers_named, refusal
from support.lora_files import (
    NAMINGS,
    OTHERS,
    RANK,
    SCALE,
    SHAPES,
    STYLES,
    Q,
    applied,
    assert_nothing_lost,
    dense_change,
    expected_weights,
    lora_file,
    random_tensor,
    same_tensors,
)
from support.pack import Pack, assert_close

# --- spellings


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_spelling_changes_what_it_names(subtests, naming):
    for style in STYLES:
        with subtests.test(style=style):
            file = lora_file(NAMINGS[naming], style)
            lora = canonical_lora(file, SHAPES)
            assert lora.unused == ()
            assert_nothing_lost(lora, file)
            changed = applied(lora)
            assert same_tensors(changed, expected_weights(NAMINGS[naming]))
            assert not any(torch.equal(changed[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("naming", ["original_split", "original_split_to", "diffusers"])
def test_a_fused_lora_is_its_parts_side_by_side(naming):
    fused = applied(canonical_lora(lora_file(dict, "peft", shared=True), SHAPES))
    apart = applied(canonical_lora(lora_file(NAMINGS[naming], "peft", shared=True), SHAPES))
    for name, tensor in fused.items():
        assert_close(apart[name], tensor, 1e-6)  # a GEMM of fewer rows may round differently


@torch.no_grad()
def test_the_network_computes_what_diffusers_does_with_paths_beside_its_layers():
    theirs, _ = checks_diffusers.transformer("sana_video_480p")
    ours = checks_diffusers.ours(Pack(), "sana_video_480p")
    file, hooks = {}, []
    for seed, (name, layer) in enumerate(theirs.named_modules()):
        if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            continue
        if getattr(layer, "groups", 1) > 1:  # PEFT's path has another rank there
            continue
        down = random_tensor(RANK, *layer.weight.shape[1:], seed=seed)
        up = random_tensor(len(layer.weight), RANK, *[1] * (layer.weight.ndim - 2), seed=500 + seed)
        file |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}

        def path(layer, inputs, output, down=down, up=up, scale=2.0 if "to_k" in name else SCALE):
            if up.ndim == 2:
                return output + scale * torch.nn.functional.linear(inputs[0] @ down.T, up)
            convolved = layer._conv_forward(inputs[0], down, None)
            return output + scale * torch.einsum("or,br...->bo...", up.flatten(1), convolved)

        hooks.append((layer, path))
    assert len(file) > 40
    adapter = {"lora_alpha": SCALE * RANK, "r": RANK, "alpha_pattern": {r"attn\d\.to_k": 2.0 * RANK}}
    metadata = {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in adapter.items()})}
    lora = canonical_lora(file, {n: t.shape for n, t in ours.state_dict().items()}, metadata=metadata)
    assert lora.unused == ()
    assert_nothing_lost(lora, file, added=len(file) // 2)

    x, text, mask = checks_diffusers._inputs("sana_video_480p")
    t = torch.tensor([960, 140])
    plain = ours(x, t, text, mask)
    handles = [layer.register_forward_hook(path) for layer, path in hooks]
    try:
        expected = theirs(x, text, t, encoder_attention_mask=mask).sample
    finally:
        for handle in handles:
            handle.remove()
    ours.load_state_dict(applied(lora, ours.state_dict()))
    assert (expected - plain).abs().max() > 0.1
    assert_close(ours(x, t, text, mask), expected, 1e-4)


def test_targets_are_rows_of_the_fused_parameters():
    width = len(WEIGHTS["blocks.0.attn.proj.bias"])
    targets = canonical_lora(lora_file(diffusers_named, "diffusers"), SHAPES).targets
    qkv, kv = "blocks.1.attn.qkv.weight", "blocks.1.cross_attn.kv_linear"
    for number, part in enumerate("qkv"):
        assert targets[f"blocks.1.attn.{part}"] == LoraTarget(qkv, (number * width, width))
    assert targets["blocks.1.cross_attn.k"] == LoraTarget(f"{kv}.weight", (0, width))
    assert targets["blocks.1.cross_attn.v"] == LoraTarget(f"{kv}.weight", (width, width))
    assert targets["blocks.1.cross_attn.v.bias"] == LoraTarget(f"{kv}.bias", (width, width))
    assert targets["blocks.1.cross_attn.q_linear"] == LoraTarget("blocks.1.cross_attn.q_linear.weight", None)
    assert targets["blocks.0.scale_shift_table"] == LoraTarget("blocks.0.scale_shift_table", None)
    assert targets["final_layer.scale_shift_table"] == LoraTarget("final_layer.scale_shift_table", None)


def test_whole_and_part_of_one_parameter_add_up():
    whole, parts = lora_file(dict, "comfyui"), lora_file(diffusers_named, "diffusers")
    qkv = {name: tensor for name, tensor in whole.items() if "0.attn.qkv" in name}
    q = {name: tensor for name, tensor in parts.items() if "0.attn1.to_q" in name}
    both = applied(canonical_lora(qkv | q, SHAPES))
    one_by_one = applied(canonical_lora(q, SHAPES), applied(canonical_lora(qkv, SHAPES)))
    assert same_tensors(both, one_by_one)


def test_blocks_past_nine_keep_their_numbers():
    shapes = {name.replace("blocks.1.", "blocks.19."): shape for name, shape in SHAPES.items()}
    for style in ("diffusers", "kohya"):
        file = lora_file(diffusers_named, style)
        moved = {name.replace("s_1_", "s_19_").replace("s.1.", "s.19."): t for name, t in file.items()}
        lora = canonical_lora(moved, shapes)
        assert lora.unused == ()
        assert "blocks.19.cross_attn.k" in lora.targets


@pytest.mark.parametrize("name", ["blocks.0.scale_shift_table", "final_layer.scale_shift_table"])
@pytest.mark.parametrize("naming", ["original", "diffusers"])
def test_a_table_may_be_set(name, naming):
    table = random_tensor(*SHAPES[name])
    (spelled,) = NAMINGS[naming]({name: table})
    lora = canonical_lora({f"transformer.{spelled}.set_weight": table}, SHAPES)
    assert lora.targets == {name: LoraTarget(name, None)}
    assert torch.equal(applied(lora)[name], table)


def test_norms_in_lycoris_spelling():
    weight, bias = random_tensor(60), random_tensor(60)
    file = {"lycoris_blocks_0_attn_q_norm.w_norm": weight, "lycoris_blocks_0_attn_proj.b_norm": bias}
    lora = canonical_lora(file, SHAPES)
    assert lora.targets.keys() == {"blocks.0.attn.q_norm", "blocks.0.attn.proj.bias"}
    assert_nothing_lost(lora, file)


def test_the_callers_mapping_stays_as_it_was():
    file = lora_file(diffusers_named, "diffusers")
    before = {name: tensor.clone() for name, tensor in file.items()}
    canonical_lora(file, SHAPES)
    assert same_tensors(file, before)


# --- other kinds of changes: on a part, on a fused parameter, and on convolutions


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_fit_where_their_change_does(kind):
    module, parts = OTHERS[kind]
    file = {f"transformer.{module}.{suffix}": tensor for suffix, tensor in parts.items()}
    lora = canonical_lora(file, SHAPES)
    assert_nothing_lost(lora, file)
    ((parameter, rows),) = lora.targets.values()
    changed = applied(lora)
    assert [name for name in WEIGHTS if not torch.equal(changed[name], WEIGHTS[name])] == [parameter]
    change = changed[parameter] - WEIGHTS[parameter]
    dense = dense_change(parts) * (parts["alpha"] / 3 if "alpha" in parts else 1)
    assert_close(change.narrow(0, *rows) if rows else change, dense.reshape(-1, *change.shape[1:]), 1e-6)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_refused_elsewhere_and_incomplete(kind):
    module, parts = OTHERS[kind]
    for wrong in ("blocks.0.attn.q_norm", "y_embedder.y_proj.fc1"):
        message = refusal(lambda: canonical_lora({f"{wrong}.{s}": t for s, t in parts.items()}, SHAPES))  # noqa: B023
        assert "does not fit" in message
        assert wrong in message
    for left_out in parts.keys() - {"alpha", "diff"}:
        file = {f"{module}.{suffix}": tensor for suffix, tensor in parts.items() if suffix != left_out}
        refusal(lambda: canonical_lora(file, SHAPES), FileError)  # noqa: B023


@pytest.mark.parametrize(
    "suffix, shape",
    [
        ("dora_scale", (60, 1)),
        ("dora_scale", (1, 60)),
        ("lora_magnitude_vector", (60,)),
        ("lora_magnitude_vector.default.weight", (60,)),
        ("lora_magnitude_vector.weight", (60,)),
    ],
)
def test_dora_scales(suffix, shape):
    q = "transformer.transformer_blocks.0.attn1.to_q"
    file = {
        name: tensor for name, tensor in lora_file(diffusers_named, "diffusers").items() if f"{q}." in name
    }
    scale = random_tensor(*shape)
    lora = canonical_lora(file | {f"{q}.{suffix}": scale}, SHAPES)
    expected = scale if len(shape) == 2 else scale.unsqueeze(1)  # the host broadcasts it along the columns
    assert torch.equal(lora.tensors["blocks.0.attn.q.dora_scale"], expected)
    message = refusal(lambda: canonical_lora(file | {f"{q}.{suffix}": random_tensor(59)}, SHAPES))
    assert "[59]" in message


def test_dora_scale_of_a_convolution():
    conv = "transformer.transformer_blocks.0.ff.conv_point"
    pair = {n: t for n, t in lora_file(diffusers_named, "diffusers").items() if n.startswith(conv)}
    lora = canonical_lora(pair | {f"{conv}.lora_magnitude_vector.weight": random_tensor(1, 60, 1, 1)}, SHAPES)
    assert lora.tensors["blocks.0.mlp.point_conv.conv.dora_scale"].shape == (60, 1, 1, 1)


# --- alphas of the metadata


def _alphas(adapter, *, alpha: bool = False, style="diffusers"):
    metadata = {"lora_adapter_metadata": json.dumps(adapter)} if adapter is not None else {}
    return _alphas_of(metadata, alpha=alpha, style=style)


def _alphas_of(metadata, *, alpha: bool = False, style="diffusers"):
    lora = canonical_lora(lora_file(diffusers_named, style, alpha=alpha), SHAPES, metadata=metadata)
    alphas = {
        module: lora.tensors[f"{module}.alpha"].item()
        for module in lora.targets
        if f"{module}.alpha" in lora.tensors
    }
    assert not alphas or alphas.keys() == {m for m in lora.targets if f"{m}.lora_up.weight" in lora.tensors}
    return alphas.get("blocks.0.attn.q"), alphas.get("blocks.0.mlp.point_conv.conv")


def test_alphas_come_from_the_metadata():
    whole = {"lora_alpha": 8, "r": 4, "alpha_pattern": {}, "rank_pattern": {}, "use_rslora": False}
    assert _alphas({f"transformer.{key}": value for key, value in whole.items()}) == (8, 8)
    assert _alphas(whole) == (8, 8)
    for pattern in (Q, "to_q", r"^transformer_blocks\.0\.attn1\.to_q", r".*\.to_[qk]"):
        assert _alphas(whole | {"alpha_pattern": {pattern: 2}}) == (2, 8), pattern
    for pattern in ("o_q", "attn1", r"^to_q"):  # a pattern matches from a dot to the end of the name
        assert _alphas(whole | {"alpha_pattern": {pattern: 2}}) == (8, 8), pattern
    assert _alphas({"lora_alpha": 8, "use_rslora": True}) == (8 * RANK**0.5, 8 * RANK**0.5)
    assert _alphas_of({"lora_alpha": "8", "r": "4", "alpha_pattern": f'{{"{Q}": 2}}'}) == (2, 8)


def test_without_alphas_there_are_none():
    assert _alphas(None) == (None, None)
    assert _alphas({"text_encoder.lora_alpha": 8}) == (None, None)
    assert _alphas_of({"format": "pt", "ss_network_dim": "4"}) == (None, None)


def test_a_tensor_outranks_the_metadata():
    assert _alphas({"transformer.lora_alpha": 64}, alpha=True) == (SCALE * RANK, SCALE * RANK)


@pytest.mark.parametrize(
    "metadata",
    [
        {"lora_adapter_metadata": "{"},
        {"lora_adapter_metadata": "[1]"},
        {"lora_alpha": "much"},
        {"lora_alpha": "[8]"},
        {"lora_alpha": "8", "alpha_pattern": "[8]"},
        {"lora_alpha": "8", "alpha_pattern": '{"(": 8}'},
        {"lora_alpha": "8", "alpha_pattern": '{"to_q": null}'},
    ],
)
def test_metadata_that_makes_no_sense(metadata):
    assert "lora_alpha" in refusal(lambda: _alphas_of(metadata), FileError)
