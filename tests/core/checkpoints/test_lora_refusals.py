"""LoRA files: what no parameter takes is listed, and what cannot fit is refused with a reason."""

from __future__ import annotations

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.lora import canonical_lora
from comfyui_sana_video.sana_video_core.errors import FileError
from support.checkpoint_files import WEIGHTS, diffusers_named, refusal
from support.lora_files import (
    FF,
    NAMINGS,
    OTHERS,
    SHAPES,
    Q,
    applied,
    assert_nothing_lost,
    expected_weights,
    lora_file,
    random_tensor,
    same_tensors,
)

# --- what no parameter takes


def test_what_no_parameter_takes_is_listed():
    file = lora_file(diffusers_named, "diffusers")
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
    file |= {name: random_tensor(1, seed=seed) for seed, name in enumerate(strangers)}
    lora = canonical_lora(file, SHAPES)
    assert set(lora.unused) == set(strangers)
    assert_nothing_lost(lora, file)
    assert same_tensors(applied(lora), expected_weights(diffusers_named))


def test_a_hosts_numbers_beside_the_weights_are_no_targets():
    scale = "blocks.0.attn.qkv.weight_scale"
    file = lora_file(dict, "peft") | {f"{scale}.diff": torch.ones(())}
    assert canonical_lora(file, SHAPES | {scale: torch.Size()}).unused == (f"{scale}.diff",)


# --- refusals


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_whole_model_is_no_lora(naming, prefix):
    whole = {prefix + name: tensor for name, tensor in NAMINGS[naming](WEIGHTS).items()}
    assert "Load SANA-Video Model" in refusal(lambda: canonical_lora(whole, SHAPES), FileError)


@pytest.mark.parametrize("names", [(), ("conv1.weight", "a.alpha"), ("blocks.0.attn.qkv.oft_blocks",)])
def test_files_without_a_lora(names):
    file = {name: random_tensor(2) for name in names}
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
    file = {
        f"{module}.lora_down.weight": random_tensor(4, 8),
        f"{module}.lora_up.weight": random_tensor(8, 4),
    }
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
    shape = {Q: [60, 60], FF: [60, 180, 1, 1]}.get(module)
    assert str(shape or list(SHAPES.get(f"{module}.weight", SHAPES.get(module)))) in message


def test_a_lora_for_the_part_of_a_fused_parameter_names_its_rows():
    file = {f"{Q.replace('to_q', 'to_k')}.lora_A.weight": torch.zeros(4, 60)}
    file |= {f"{Q.replace('to_q', 'to_k')}.lora_B.weight": torch.zeros(61, 4)}
    assert "rows 60 to 119 of blocks.0.attn.qkv.weight" in refusal(lambda: canonical_lora(file, SHAPES))


def test_pairs_with_kernels_that_comfyui_cannot_multiply():
    """It flattens only those of a LoRA."""
    file = {f"blocks.0.mlp.point_conv.conv.hada_w{n}_a": random_tensor(60, 3, 1, 1) for n in (1, 2)}
    file |= {f"blocks.0.mlp.point_conv.conv.hada_w{n}_b": random_tensor(3, 180, 1, 1) for n in (1, 2)}
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
    """They have the right size, but ComfyUI would log an error and skip them, or mix up their axes."""
    file = {f"{module}.lokr_{part}": torch.zeros(shape) for part, shape in shapes.items()}
    assert "ComfyUI cannot apply" in refusal(lambda: canonical_lora(file, SHAPES), FileError)


@pytest.mark.parametrize("shape", [(61,), (1,), (), (0,), (6, 60)])
@pytest.mark.parametrize("suffix", ["diff", "set_weight", "w_norm"])
def test_differences_that_do_not_fit(shape, suffix):
    refusal(lambda: canonical_lora({f"blocks.0.attn.q_norm.{suffix}": torch.zeros(shape)}, SHAPES), FileError)


@pytest.mark.parametrize("end", ["lora_A.weight", "lora_B.weight", "lora_up.weight", "lora.down.weight"])
def test_half_a_pair(end):
    file = lora_file(diffusers_named, "diffusers")
    file |= {f"blocks.0.mlp.depth_conv.conv.{end}": random_tensor(4, 9)}
    del file["transformer.transformer_blocks.0.ff.conv_depth.lora_A.weight"]
    del file["transformer.transformer_blocks.0.ff.conv_depth.lora_B.weight"]
    message = refusal(lambda: canonical_lora(file, SHAPES), FileError)
    assert end in message
    assert "half a change" in message


def test_two_loras_in_one_file():
    adapters = lora_file(dict, "peft_adapter") | lora_file(dict, "peft")
    assert "same place" in refusal(lambda: canonical_lora(adapters, SHAPES), FileError)
    spellings = lora_file(dict, "comfyui") | lora_file(diffusers_named, "kohya")
    assert "same place" in refusal(lambda: canonical_lora(spellings, SHAPES), FileError)


@pytest.mark.parametrize(
    "first, second",
    [
        (OTHERS["hada_part"], {"diff": random_tensor(60, 60)}),
        (OTHERS["lokr_whole"], {"set_weight": random_tensor(60, 60)}),
        (OTHERS["lokr_whole"], {"lokr_w2_a": random_tensor(10, 2), "lokr_w2_b": random_tensor(2, 15)}),
        (OTHERS["difference_of_a_convolution"], {"dora_scale": random_tensor(360)}),
        (OTHERS["difference_of_a_convolution"], {"alpha": torch.ones(())}),
    ],
)
def test_ways_that_exclude_each_other(first, second):
    """ComfyUI would keep the last one, or skip a tensor."""
    file = {f"{first[0]}.{suffix}": tensor for suffix, tensor in (first[1] | second).items()}
    assert "exclude each other" in refusal(lambda: canonical_lora(file, SHAPES), FileError)


def test_an_alpha_is_one_number():
    file = lora_file(diffusers_named, "diffusers") | {f"transformer.{Q}.alpha": random_tensor(2)}
    assert "alpha [2]" in refusal(lambda: canonical_lora(file, SHAPES), FileError)
    canonical_lora(file | {f"transformer.{Q}.alpha": random_tensor(1)}, SHAPES)
