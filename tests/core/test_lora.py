"""LoRA files: every spelling makes the same change, nothing is lost, and what cannot fit is refused in words.

`_applied` does what ComfyUI does with the result; what is expected is the same change made to weights in the file's own
spelling, and what diffusers' network computes with low-rank paths beside its layers, as PEFT puts them there.
"""

from __future__ import annotations

import json
from functools import partial

import checks_diffusers
import pytest
import torch
from checkpoint_files import WEIGHTS, diffusers_named, refusal, split
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.keys import canonical_transformer
from comfyui_sana_video.sana_video_core.lora import LoraTarget, canonical_lora
from pack import Pack, assert_close

SHAPES = {name: tensor.shape for name, tensor in WEIGHTS.items()}
RANK = 4
SCALE = 0.5  # alpha / rank; a power of two, so that scaling before or after is the same to the last bit

NAMINGS = {
    "original": dict,
    "original_split": partial(split, spelling="{}"),
    "original_split_to": partial(split, spelling="to_{}"),
    "diffusers": diffusers_named,
    "diffusers_fused": partial(diffusers_named, fused=True),
}
# prefix, what stands before .weight for A and B, whether dots become underscores
STYLES = {
    "bare": ("", "lora_A.weight", "lora_B.weight", False),
    "bare_up_down": ("", "lora.down.weight", "lora.up.weight", False),
    "no_weight": ("", "lora_A", "lora_B", False),
    "linear_layer": ("transformer.", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight", False),
    "peft": ("base_model.model.", "lora_A.weight", "lora_B.weight", False),
    "peft_adapter": ("base_model.model.", "lora_A.default.weight", "lora_B.default.weight", False),
    "peft_in_model": (
        "base_model.model.model.",
        "lora_A.my-style_2.weight",
        "lora_B.my-style_2.weight",
        False,
    ),
    "diffusers": ("transformer.", "lora_A.weight", "lora_B.weight", False),
    "comfyui": ("diffusion_model.", "lora_down.weight", "lora_up.weight", False),
    "model": ("model.", "lora_A.weight", "lora_B.weight", False),
    "whole_host": ("model.diffusion_model.", "lora_A.weight", "lora_B.weight", False),
    "kohya": ("lora_unet_", "lora_down.weight", "lora_up.weight", True),
    "kohya_wan": ("lora_unet__", "lora_down.weight", "lora_up.weight", True),
    "onetrainer": ("lora_transformer_", "lora_down.weight", "lora_up.weight", True),
    "lycoris": ("lycoris_", "lora_down.weight", "lora_up.weight", True),
}


def _random(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 8


def _pairs(naming, *, shared: bool = False):
    """(down, up) for every weight with columns, by module name; parts share `down` only if `shared`."""
    pairs = {}
    for seed, (name, tensor) in enumerate(WEIGHTS.items()):
        if tensor.ndim > 1 and name.endswith(".weight"):
            down = _random(RANK, *tensor.shape[1:], seed=seed)
            up = _random(len(tensor), RANK, *[1] * (tensor.ndim - 2), seed=1000 + seed)
            for number, (spelled, part) in enumerate(naming({name: up}).items()):
                pairs[spelled.removesuffix(".weight")] = (down if shared else (number + 1) * down, part)
    return pairs


def _differences(naming):
    """Differences of tables, norms and biases, by the name of the parameter in this naming."""
    rest = {name: _random(*t.shape, seed=9) for name, t in WEIGHTS.items() if t.ndim == 1 or "table" in name}
    return naming(rest)


def _file(naming, style: str, *, shared: bool = False, alpha: bool = True):
    prefix, down_name, up_name, flat = STYLES[style]
    file = {}
    for module, (down, up) in _pairs(naming, shared=shared).items():
        stem = prefix + (module.replace(".", "_") if flat else module)
        file |= {f"{stem}.{down_name}": down, f"{stem}.{up_name}": up}
        file |= {f"{stem}.alpha": torch.tensor(SCALE * RANK)} if alpha else {}
    for parameter, difference in _differences(naming).items():
        module, _, leaf = parameter.rpartition(".")
        stem, suffix = {"weight": (module, "diff"), "bias": (module, "diff_b")}.get(leaf, (parameter, "diff"))
        file[f"{prefix}{stem.replace('.', '_') if flat else stem}.{suffix}"] = difference
    return file


def _expected(naming, *, shared: bool = False):
    """The weights in the file's own naming, changed there, under the original's names."""
    weights = naming(WEIGHTS)
    for module, (down, up) in _pairs(naming, shared=shared).items():
        weight = weights[f"{module}.weight"]
        weights[f"{module}.weight"] = weight + SCALE * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    for parameter, difference in _differences(naming).items():
        weights[parameter] = weights[parameter] + difference
    return canonical_transformer(weights)


def _low_rank(part, first: str, second: str, core: str = ""):
    if core in part:  # [r, r, h, w] between [r, rows] and [r, columns]
        return torch.einsum("ijkl,ip,jr->prkl", part[core], part[first], part[second])
    return part[first].flatten(1) @ part[second].flatten(1)


def _change(part):
    """The dense change of one module, as ComfyUI's adapters compute it."""
    if "lora_mid.weight" in part:
        up, down = (part[f"lora_{end}.weight"].flatten(1) for end in ("up", "down"))
        return torch.einsum("pi,ijkl,jr->prkl", up, part["lora_mid.weight"], down)
    if "lora_up.weight" in part:
        return _low_rank(part, "lora_up.weight", "lora_down.weight")
    if "hada_w1_a" in part:
        return _low_rank(part, "hada_w1_a", "hada_w1_b", "hada_t1") * _low_rank(
            part, "hada_w2_a", "hada_w2_b", "hada_t2"
        )
    if "diff" in part:
        return part["diff"]
    w1, w2 = (
        part[f"lokr_w{n}"] if f"lokr_w{n}" in part else _low_rank(part, f"lokr_w{n}_a", f"lokr_w{n}_b")
        for n in (1, 2)
    )
    return torch.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2)


def _parts(lora):
    """Suffix -> tensor of each module; fails when a module has no target, or a target no tensor."""
    parts = {}
    for name, tensor in lora.tensors.items():
        module = max((m for m in lora.targets if name.startswith(f"{m}.")), key=len)
        parts.setdefault(module, {})[name.removeprefix(f"{module}.")] = tensor
    assert parts.keys() == lora.targets.keys()
    return parts


def _applied(lora, weights=WEIGHTS):
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    for module, part in _parts(lora).items():
        parameter, rows = lora.targets[module]
        weight = changed[parameter].narrow(0, *rows) if rows else changed[parameter]
        if "set_weight" in part or "diff" in part:
            given = part.get("set_weight", part.get("diff"))
            assert given.shape == weight.shape  # ComfyUI passes over a difference of another shape
            weight.add_(given) if "diff" in part else weight.copy_(given)
            continue
        rank = next((len(part[name]) for name in ("lora_down.weight", "hada_w1_b") if name in part), None)
        scale = part["alpha"].item() / rank if "alpha" in part else 1.0
        weight += scale * _change(part).reshape(weight.shape)
    return changed


def _assert_nothing_lost(lora, file, *, added: int = 0):
    """Every tensor of the file is in the result under one name, or its name is listed; `added` tensors are new."""
    kept = {tensor.data_ptr() for tensor in lora.tensors.values()}
    assert {name for name, tensor in file.items() if tensor.data_ptr() not in kept} == set(lora.unused)
    assert len(lora.tensors) + len(lora.unused) == len(file) + added
    assert len(set(lora.targets.values())) == len(lora.targets)  # the host keeps one change for each


def _same(actual, expected):
    return actual.keys() == expected.keys() and all(torch.equal(actual[n], expected[n]) for n in expected)


# --- spellings


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_spelling_changes_what_it_names(naming, style):
    file = _file(NAMINGS[naming], style)
    lora = canonical_lora(file, SHAPES)
    assert lora.unused == ()
    _assert_nothing_lost(lora, file)
    changed = _applied(lora)
    assert _same(changed, _expected(NAMINGS[naming]))
    assert not any(torch.equal(changed[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("naming", ["original_split", "original_split_to", "diffusers"])
def test_a_fused_lora_is_its_parts_side_by_side(naming):
    fused = _applied(canonical_lora(_file(dict, "peft", shared=True), SHAPES))
    apart = _applied(canonical_lora(_file(NAMINGS[naming], "peft", shared=True), SHAPES))
    for name, tensor in fused.items():
        assert_close(apart[name], tensor, 1e-6)  # a product of fewer rows may round otherwise


@torch.no_grad()
def test_the_network_computes_what_diffusers_does_with_paths_beside_its_layers():
    theirs, _ = checks_diffusers.transformer("sana_video_480p")
    ours = checks_diffusers.ours(Pack(), "sana_video_480p")
    file, hooks = {}, []
    for seed, (name, layer) in enumerate(theirs.named_modules()):
        if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            continue
        if getattr(layer, "groups", 1) > 1:  # where PEFT's path is none of this rank
            continue
        down = _random(RANK, *layer.weight.shape[1:], seed=seed)
        up = _random(len(layer.weight), RANK, *[1] * (layer.weight.ndim - 2), seed=500 + seed)
        file |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}

        def path(layer, inputs, output, down=down, up=up, scale=2.0 if "to_k" in name else SCALE):
            if up.ndim == 2:
                return output + scale * torch.nn.functional.linear(inputs[0] @ down.T, up)
            convolved = layer._conv_forward(inputs[0], down, None)
            return output + scale * torch.einsum("or,br...->bo...", up.flatten(1), convolved)

        hooks.append((layer, path))
    assert len(file) > 40
    told = {"lora_alpha": SCALE * RANK, "r": RANK, "alpha_pattern": {r"attn\d\.to_k": 2.0 * RANK}}
    metadata = {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in told.items()})}
    lora = canonical_lora(file, {n: t.shape for n, t in ours.state_dict().items()}, metadata=metadata)
    assert lora.unused == ()
    _assert_nothing_lost(lora, file, added=len(file) // 2)

    x, text, mask = checks_diffusers._inputs("sana_video_480p")
    t = torch.tensor([960, 140])
    plain = ours(x, t, text, mask)
    handles = [layer.register_forward_hook(path) for layer, path in hooks]
    try:
        expected = theirs(x, text, t, encoder_attention_mask=mask).sample
    finally:
        for handle in handles:
            handle.remove()
    ours.load_state_dict(_applied(lora, ours.state_dict()))
    assert (expected - plain).abs().max() > 0.1
    assert_close(ours(x, t, text, mask), expected, 1e-4)


def test_targets_are_rows_of_the_fused_parameters():
    width = len(WEIGHTS["blocks.0.attn.proj.bias"])
    targets = canonical_lora(_file(diffusers_named, "diffusers"), SHAPES).targets
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
    whole, parts = _file(dict, "comfyui"), _file(diffusers_named, "diffusers")
    qkv = {name: tensor for name, tensor in whole.items() if "0.attn.qkv" in name}
    q = {name: tensor for name, tensor in parts.items() if "0.attn1.to_q" in name}
    both = _applied(canonical_lora(qkv | q, SHAPES))
    one_by_one = _applied(canonical_lora(q, SHAPES), _applied(canonical_lora(qkv, SHAPES)))
    assert _same(both, one_by_one)


def test_blocks_past_nine_keep_their_numbers():
    shapes = {name.replace("blocks.1.", "blocks.19."): shape for name, shape in SHAPES.items()}
    for style in ("diffusers", "kohya"):
        file = _file(diffusers_named, style)
        moved = {name.replace("s_1_", "s_19_").replace("s.1.", "s.19."): t for name, t in file.items()}
        lora = canonical_lora(moved, shapes)
        assert lora.unused == ()
        assert "blocks.19.cross_attn.k" in lora.targets


@pytest.mark.parametrize("name", ["blocks.0.scale_shift_table", "final_layer.scale_shift_table"])
@pytest.mark.parametrize("naming", ["original", "diffusers"])
def test_a_table_may_be_set(name, naming):
    table = _random(*SHAPES[name])
    (spelled,) = NAMINGS[naming]({name: table})
    lora = canonical_lora({f"transformer.{spelled}.set_weight": table}, SHAPES)
    assert lora.targets == {name: LoraTarget(name, None)}
    assert torch.equal(_applied(lora)[name], table)


def test_norms_in_lycoris_spelling():
    weight, bias = _random(60), _random(60)
    file = {"lycoris_blocks_0_attn_q_norm.w_norm": weight, "lycoris_blocks_0_attn_proj.b_norm": bias}
    lora = canonical_lora(file, SHAPES)
    assert lora.targets.keys() == {"blocks.0.attn.q_norm", "blocks.0.attn.proj.bias"}
    _assert_nothing_lost(lora, file)


def test_the_callers_mapping_stays_as_it_was():
    file = _file(diffusers_named, "diffusers")
    before = {name: tensor.clone() for name, tensor in file.items()}
    canonical_lora(file, SHAPES)
    assert _same(file, before)


# --- other kinds of changes: on a part, on a fused parameter, and on convolutions


def _hada(rows, columns, rank=3):
    return {
        f"hada_w{n}_{end}": _random(*shape, seed=n)
        for n in (1, 2)
        for end, shape in (("a", (rows, rank)), ("b", (rank, columns)))
    }


def _tucker(rows, columns, kernel, rank=3):
    """LoHa with cores."""
    flat = {f"hada_w{n}_a": _random(rank, rows, seed=n) for n in (1, 2)}
    flat |= {f"hada_w{n}_b": _random(rank, columns, seed=9 + n) for n in (1, 2)}
    return flat | {f"hada_t{n}": _random(rank, rank, *kernel, seed=3 * n) for n in (1, 2)}


OTHERS = {
    "hada_part": ("transformer_blocks.0.attn1.to_v", _hada(60, 60)),
    "hada_fused": ("blocks.0.attn.qkv", _hada(180, 60) | {"alpha": torch.tensor(1.5)}),
    "hada_tucker": ("transformer_blocks.1.ff.conv_temp", _tucker(60, 60, (3, 1))),
    "lora_tucker": (
        "blocks.1.mlp.t_conv",
        {
            "lora_up.weight": _random(60, 4, 1, 1),
            "lora_down.weight": _random(4, 60, 1, 1),
            "lora_mid.weight": _random(4, 4, 3, 1),
        },
    ),
    "lokr_whole": ("transformer_blocks.0.attn2.to_v", {"lokr_w1": _random(6, 4), "lokr_w2": _random(10, 15)}),
    "lokr_pairs": (
        "blocks.0.cross_attn.kv_linear",
        {
            "lokr_w1_a": _random(6, 2),
            "lokr_w1_b": _random(2, 4),
            "lokr_w2_a": _random(20, 3),
            "lokr_w2_b": _random(3, 15),
        },
    ),
    "lokr_convolution": ("blocks.0.mlp.t_conv", {"lokr_w1": _random(6, 4), "lokr_w2": _random(10, 15, 3, 1)}),
    "difference_of_a_convolution": ("blocks.0.mlp.inverted_conv.conv", {"diff": _random(360, 60)}),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_fit_where_their_product_does(kind):
    module, parts = OTHERS[kind]
    file = {f"transformer.{module}.{suffix}": tensor for suffix, tensor in parts.items()}
    lora = canonical_lora(file, SHAPES)
    _assert_nothing_lost(lora, file)
    ((parameter, rows),) = lora.targets.values()
    changed = _applied(lora)
    assert [name for name in WEIGHTS if not torch.equal(changed[name], WEIGHTS[name])] == [parameter]
    own = changed[parameter] - WEIGHTS[parameter]
    dense = _change(parts) * (parts["alpha"] / 3 if "alpha" in parts else 1)
    assert_close(own.narrow(0, *rows) if rows else own, dense.reshape(-1, *own.shape[1:]), 1e-6)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_refused_elsewhere_or_incomplete(kind):
    module, parts = OTHERS[kind]
    for wrong in ("blocks.0.attn.q_norm", "y_embedder.y_proj.fc1"):
        message = refusal(lambda: canonical_lora({f"{wrong}.{s}": t for s, t in parts.items()}, SHAPES))  # noqa: B023
        assert "does not fit" in message
        assert wrong in message
    for left_out in parts.keys() - {"alpha", "diff"}:
        file = {f"{module}.{suffix}": tensor for suffix, tensor in parts.items() if suffix != left_out}
        refusal(lambda: canonical_lora(file, SHAPES), FileError)  # noqa: B023


@pytest.mark.parametrize(
    "given, becomes",
    [
        ("dora_scale", (60, 1)),
        ("dora_scale", (1, 60)),
        ("lora_magnitude_vector", (60,)),
        ("lora_magnitude_vector.default.weight", (60,)),
        ("lora_magnitude_vector.weight", (60,)),
    ],
)
def test_dora_scales(given, becomes):
    q = "transformer.transformer_blocks.0.attn1.to_q"
    file = {name: tensor for name, tensor in _file(diffusers_named, "diffusers").items() if f"{q}." in name}
    scale = _random(*becomes)
    lora = canonical_lora(file | {f"{q}.{given}": scale}, SHAPES)
    expected = scale if len(becomes) == 2 else scale.unsqueeze(1)  # the host broadcasts it along the columns
    assert torch.equal(lora.tensors["blocks.0.attn.q.dora_scale"], expected)
    message = refusal(lambda: canonical_lora(file | {f"{q}.{given}": _random(59)}, SHAPES))
    assert "[59]" in message


def test_dora_scale_of_a_convolution():
    conv = "transformer.transformer_blocks.0.ff.conv_point"
    pair = {n: t for n, t in _file(diffusers_named, "diffusers").items() if n.startswith(conv)}
    lora = canonical_lora(pair | {f"{conv}.lora_magnitude_vector.weight": _random(1, 60, 1, 1)}, SHAPES)
    assert lora.tensors["blocks.0.mlp.point_conv.conv.dora_scale"].shape == (60, 1, 1, 1)


# --- alphas of the metadata


Q, FF = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.conv_point"


def _alphas(told, *, alpha: bool = False, style="diffusers"):
    metadata = {"lora_adapter_metadata": json.dumps(told)} if told is not None else {}
    return _alphas_of(metadata, alpha=alpha, style=style)


def _alphas_of(metadata, *, alpha: bool = False, style="diffusers"):
    lora = canonical_lora(_file(diffusers_named, style, alpha=alpha), SHAPES, metadata=metadata)
    found = {
        module: lora.tensors[f"{module}.alpha"].item()
        for module in lora.targets
        if f"{module}.alpha" in lora.tensors
    }
    assert not found or found.keys() == {m for m in lora.targets if f"{m}.lora_up.weight" in lora.tensors}
    return found.get("blocks.0.attn.q"), found.get("blocks.0.mlp.point_conv.conv")


def test_alphas_come_from_the_metadata():
    whole = {"lora_alpha": 8, "r": 4, "alpha_pattern": {}, "rank_pattern": {}, "use_rslora": False}
    assert _alphas({f"transformer.{key}": value for key, value in whole.items()}) == (8, 8)
    assert _alphas(whole) == (8, 8)
    for pattern in (Q, "to_q", r"^transformer_blocks\.0\.attn1\.to_q", r".*\.to_[qk]"):
        assert _alphas(whole | {"alpha_pattern": {pattern: 2}}) == (2, 8), pattern
    for pattern in ("o_q", "attn1", r"^to_q"):  # a name counts from a dot on, and to its end
        assert _alphas(whole | {"alpha_pattern": {pattern: 2}}) == (8, 8), pattern
    assert _alphas({"lora_alpha": 8, "use_rslora": True}) == (8 * RANK**0.5, 8 * RANK**0.5)
    assert _alphas_of({"lora_alpha": "8", "r": "4", "alpha_pattern": f'{{"{Q}": 2}}'}) == (2, 8)


def test_without_alphas_there_are_none():
    assert _alphas(None) == (None, None)
    assert _alphas({"text_encoder.lora_alpha": 8}) == (None, None)
    assert _alphas_of({"format": "pt", "ss_network_dim": "4"}) == (None, None)


def test_a_tensor_comes_before_the_metadata():
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
def test_metadata_that_make_no_sense(metadata):
    assert "lora_alpha" in refusal(lambda: _alphas_of(metadata), FileError)


# --- what no parameter takes


def test_what_no_parameter_takes_is_listed():
    file = _file(diffusers_named, "diffusers")
    strangers = (
        "text_encoder.model.layers.0.self_attn.q_proj.lora_A.weight",
        "text_encoder.model.layers.0.self_attn.q_proj.lora_B.weight",
        "lora_te_model_layers_0_mlp_up_proj.lora_down.weight",
        "lora_te1_model_layers_0_mlp_up_proj.alpha",
        "transformer.transformer_blocks.99.attn1.to_q.lora_A.weight",
        "transformer.transformer_blocks.0.attn1.to_q.lora_B.bias",
        "transformer.transformer_blocks.0.attn1.to_q.diff_b",  # which has no bias
        "transformer.transformer_blocks.0.attn1.to_q.oft_blocks",
        "transformer.transformer_blocks.0.norm1.alpha",
        "blocks.0.attn.qkv.alpha",  # nothing to scale: the parts have their own
        "transformer.proj_out.weight",
        "step",
    )
    file |= {name: _random(1, seed=seed) for seed, name in enumerate(strangers)}
    lora = canonical_lora(file, SHAPES)
    assert set(lora.unused) == set(strangers)
    _assert_nothing_lost(lora, file)
    assert _same(_applied(lora), _expected(diffusers_named))


def test_numbers_of_a_host_beside_the_weights_are_no_targets():
    scale = "blocks.0.attn.qkv.weight_scale"
    file = _file(dict, "peft") | {f"{scale}.diff": torch.ones(())}
    assert canonical_lora(file, SHAPES | {scale: torch.Size()}).unused == (f"{scale}.diff",)


# --- refusals


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_whole_model_is_no_lora(naming, prefix):
    whole = {prefix + name: tensor for name, tensor in NAMINGS[naming](WEIGHTS).items()}
    assert "Load SANA-Video Model" in refusal(lambda: canonical_lora(whole, SHAPES), FileError)


@pytest.mark.parametrize("names", [(), ("conv1.weight", "a.alpha"), ("blocks.0.attn.qkv.oft_blocks",)])
def test_files_without_a_lora(names):
    file = {name: _random(2) for name in names}
    message = refusal(lambda: canonical_lora(file, SHAPES), FileError)
    assert "holds no LoRA" in message
    assert all(name in message for name in names)


@pytest.mark.parametrize(
    "module",
    [
        "lora_unet_down_blocks_0_attentions_0_proj_in",
        "diffusion_model.double_blocks.0.img_attn.qkv",
        "transformer.single_transformer_blocks.0.attn.to_q",
        "text_encoder.model.layers.0.mlp.up_proj",
    ],
)
def test_a_lora_of_another_model(module):
    file = {f"{module}.lora_down.weight": _random(4, 8), f"{module}.lora_up.weight": _random(8, 4)}
    message = refusal(lambda: canonical_lora(file, SHAPES), FileError)
    assert "another model" in message
    assert f"{module}.lora_down.weight" in message


@pytest.mark.parametrize("module", [Q, "blocks.0.attn.qkv", FF, "blocks.0.scale_shift_table"])
@pytest.mark.parametrize(
    "down, up",
    [
        ((4, 60), (59, 4)),
        ((4, 61), (60, 4)),
        ((3, 60), (60, 4)),
        ((60,), (60, 1)),
        ((1, 60), (60,)),
        ((0, 60), (60, 0)),
        ((), ()),
        ((4, 60, 3, 3), (60, 4, 1, 1)),
    ],
)
def test_shapes_that_do_not_fit(module, down, up):
    file = {f"{module}.lora_A.weight": torch.zeros(down), f"{module}.lora_B.weight": torch.zeros(up)}
    message = refusal(lambda: canonical_lora(file, SHAPES), FileError)
    for word in (f"{module}.lora_A.weight", f"{module}.lora_B.weight", str(list(down)), str(list(up))):
        assert word in message
    own = {Q: [60, 60], FF: [60, 180, 1, 1]}.get(module)
    assert str(own or list(SHAPES.get(f"{module}.weight", SHAPES.get(module)))) in message


def test_a_lora_for_the_part_of_a_fused_parameter_names_its_rows():
    file = {f"{Q.replace('to_q', 'to_k')}.lora_A.weight": torch.zeros(4, 60)}
    file |= {f"{Q.replace('to_q', 'to_k')}.lora_B.weight": torch.zeros(61, 4)}
    assert "rows 60 to 119 of blocks.0.attn.qkv.weight" in refusal(lambda: canonical_lora(file, SHAPES))


def test_pairs_with_kernels_that_comfyui_cannot_multiply():
    """It flattens those of a LoRA alone."""
    file = {f"blocks.0.mlp.point_conv.conv.hada_w{n}_a": _random(60, 3, 1, 1) for n in (1, 2)}
    file |= {f"blocks.0.mlp.point_conv.conv.hada_w{n}_b": _random(3, 180, 1, 1) for n in (1, 2)}
    assert "does not fit" in refusal(lambda: canonical_lora(file, SHAPES), FileError)
    assert canonical_lora({name: tensor.flatten(1) for name, tensor in file.items()}, SHAPES).unused == ()


@pytest.mark.parametrize("up, core", [((60, 5), (5, 4, 3, 1)), ((60, 4), (4, 4, 3)), ((60, 4), (4, 5, 3, 1))])
def test_tucker_cores_that_comfyui_cannot_take(up, core):
    parts = {"lora_up.weight": up, "lora_down.weight": (4, 60, 1, 1), "lora_mid.weight": core}
    file = {f"blocks.0.mlp.t_conv.{suffix}": torch.zeros(shape) for suffix, shape in parts.items()}
    assert "does not fit" in refusal(lambda: canonical_lora(file, SHAPES), FileError)


@pytest.mark.parametrize(
    "module, shapes",
    [
        ("blocks.0.mlp.t_conv", {"w1": (6, 4), "w2_a": (3, 10), "w2_b": (2, 15), "t2": (3, 2, 3, 1)}),
        ("blocks.0.mlp.t_conv", {"w1": (6, 4), "w2": (10, 15, 3, 1), "t2": (2, 2, 1, 1)}),
        ("blocks.0.mlp.t_conv", {"w1": (6, 4, 1, 1), "w2": (10, 15, 3, 1)}),
        ("x_embedder.proj", {"w1": (6, 4), "w2": (10, 4, 1, 2, 2)}),
    ],
)
def test_kronecker_products_that_comfyui_cannot_take(module, shapes):
    """Of the right size, but it would log an error and pass over them, or mix up their axes."""
    file = {f"{module}.lokr_{part}": torch.zeros(shape) for part, shape in shapes.items()}
    assert "ComfyUI cannot apply" in refusal(lambda: canonical_lora(file, SHAPES), FileError)


@pytest.mark.parametrize("shape", [(61,), (1,), (), (0,), (6, 60)])
@pytest.mark.parametrize("suffix", ["diff", "set_weight", "w_norm"])
def test_differences_that_do_not_fit(shape, suffix):
    refusal(lambda: canonical_lora({f"blocks.0.attn.q_norm.{suffix}": torch.zeros(shape)}, SHAPES), FileError)


@pytest.mark.parametrize("end", ["lora_A.weight", "lora_B.weight", "lora_up.weight", "lora.down.weight"])
def test_half_a_pair(end):
    file = _file(diffusers_named, "diffusers")
    file |= {f"blocks.0.mlp.depth_conv.conv.{end}": _random(4, 9)}
    del file["transformer.transformer_blocks.0.ff.conv_depth.lora_A.weight"]
    del file["transformer.transformer_blocks.0.ff.conv_depth.lora_B.weight"]
    message = refusal(lambda: canonical_lora(file, SHAPES), FileError)
    assert end in message
    assert "half a change" in message


def test_two_loras_in_one_file():
    adapters = _file(dict, "peft_adapter") | _file(dict, "peft")
    assert "same place" in refusal(lambda: canonical_lora(adapters, SHAPES), FileError)
    spellings = _file(dict, "comfyui") | _file(diffusers_named, "kohya")
    assert "same place" in refusal(lambda: canonical_lora(spellings, SHAPES), FileError)


@pytest.mark.parametrize(
    "first, second",
    [
        (OTHERS["hada_part"], {"diff": _random(60, 60)}),
        (OTHERS["lokr_whole"], {"set_weight": _random(60, 60)}),
        (OTHERS["lokr_whole"], {"lokr_w2_a": _random(10, 2), "lokr_w2_b": _random(2, 15)}),
        (OTHERS["difference_of_a_convolution"], {"dora_scale": _random(360)}),
        (OTHERS["difference_of_a_convolution"], {"alpha": torch.ones(())}),
    ],
)
def test_ways_that_exclude_each_other(first, second):
    """ComfyUI would keep the last one, or pass over a tensor."""
    file = {f"{first[0]}.{suffix}": tensor for suffix, tensor in (first[1] | second).items()}
    assert "exclude each other" in refusal(lambda: canonical_lora(file, SHAPES), FileError)


def test_an_alpha_is_one_number():
    file = _file(diffusers_named, "diffusers") | {f"transformer.{Q}.alpha": _random(2)}
    assert "alpha [2]" in refusal(lambda: canonical_lora(file, SHAPES), FileError)
    canonical_lora(file | {f"transformer.{Q}.alpha": _random(1)}, SHAPES)
