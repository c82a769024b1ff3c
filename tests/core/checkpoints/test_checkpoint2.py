"""Files of SANA-Video 2.0, as they are published and as people have them."""

import json

import pytest
import torch
from support.pack import Pack, same
from support.sana2 import DEAD, GOLDEN2, golden2, model2

PACK = Pack()
checkpoint, config, errors = (PACK.core(n) for n in ("checkpoints.checkpoint", "config", "errors"))
said_family, read_lora = PACK.core("checkpoints.said_family"), PACK.core("checkpoints.lora_file").read_lora
CONFIG = GOLDEN2 / "config.json"
FIFTY, FOUR = "sana_video2_720p", "sana_video2_720p_4step"


@pytest.fixture
def file(tmp_path):
    """A file of the golden weights: file(name, *wrappers, prefix)."""

    def write(name, *wrappers, prefix="", weights=None):
        content = {prefix + key: tensor for key, tensor in (weights or golden2("weights")).items()}
        for wrapper in reversed(wrappers):
            content = {wrapper: content}
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("wrapper", ["generator", "state_dict_ema", "state_dict", ""])
@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
def test_every_wrapper_and_prefix(file, wrapper, prefix, caplog):
    path = file("model.pth", *filter(None, [wrapper]), prefix=prefix)
    model = checkpoint.load_transformer(path, config=CONFIG)
    expected = model2(PACK).state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(same(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert model.config == model2(PACK).config
    assert model.family.name == FIFTY
    assert all("latent channels" in record.message for record in caplog.records)


def test_of_several_networks_the_scripts_choice_is_taken(tmp_path, caplog):
    weights = golden2("weights")
    other = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"state_dict": other, "state_dict_ema": weights, "epoch": 1}, tmp_path / "dump.pth")
    model = checkpoint.load_transformer(tmp_path / "dump.pth", config=CONFIG)
    assert same(model.state_dict()["t_block.1.bias"], weights["t_block.1.bias"])
    assert "“state_dict_ema” was taken" in caplog.text
    torch.save({"state_dict_ema": other, "generator": weights}, tmp_path / "dump.pth")
    model = checkpoint.load_transformer(tmp_path / "dump.pth", config=CONFIG)
    assert same(model.state_dict()["t_block.1.bias"], weights["t_block.1.bias"])
    caplog.clear()
    flat = {f"state_dict_ema.{name}": tensor for name, tensor in weights.items()}
    flat |= {f"state_dict.{name}": tensor for name, tensor in other.items()}
    PACK.core("files.tensor_file").write_tensors(tmp_path / "dump.safetensors", flat, {})
    model = checkpoint.load_transformer(tmp_path / "dump.safetensors", config=CONFIG)
    assert same(model.state_dict()["t_block.1.bias"], weights["t_block.1.bias"])
    assert "“state_dict_ema” was taken" in caplog.text


def test_what_is_missing_or_unknown_is_said(file):
    whole = golden2("weights")
    dead = {name: tensor for name, tensor in whole.items() if name not in DEAD}
    checkpoint.load_transformer(file("a.pth", weights=dead), config=CONFIG)
    for name in ("attn_res.mlp_proj.weight", "blocks.5.attn.o_norm.weight", "blocks.3.mlp.up_proj.bias"):
        part = {key: tensor for key, tensor in whole.items() if key != name}
        with pytest.raises(errors.FileError, match=f"1 missing \\({name}"):
            checkpoint.load_transformer(file("b.pth", weights=part), config=CONFIG)
    more = whole | {"blocks.0.attn.extra.weight": torch.zeros(1)}
    with pytest.raises(errors.FileError, match="1 unknown"):
        checkpoint.load_transformer(file("c.pth", weights=more), config=CONFIG)
    short = {name: tensor for name, tensor in whole.items() if not name.startswith("blocks.7.")}
    with pytest.raises(errors.FileError, match="7 blocks of 8"):
        checkpoint.load_transformer(file("d.pth", weights=short), config=CONFIG)


def test_sizes_that_the_weights_do_not_show(file):
    """From the original's config, from ours, or by the published rule."""
    path = file("model.pth")
    with pytest.raises(errors.FileError, match="how many heads its cross-attention has"):
        checkpoint.read_checkpoint(path)
    ours = {"cross_attention_head_dim": 8, "softmax_head_dim": 14, "attn_res_block_size": 4, "num_layers": 8}
    sizes = checkpoint.read_checkpoint(path, config=ours).config
    assert (sizes.cross_head_dim, sizes.softmax_head_dim, sizes.group) == (8, 14, 4)
    assert sizes.softmax_layers == (3, 7)
    sizes = checkpoint.read_checkpoint(path, config={"num_heads": 7, "depth": 8}).config
    assert (sizes.cross_head_dim, sizes.softmax_head_dim, sizes.group) == (8, 28, 8)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("SANA_Video_2.0_5B_720p.pth", FIFTY),
        ("SANA_Video_2.0_5B_720p_4step.pth", FOUR),
        ("sana2-4-steps.pth", FOUR),
        ("sana2 4 step bf16.pth", FOUR),
        ("Sana2_DMD.pth", FOUR),
        ("sana2_distilled.pth", FOUR),
        ("sana2_four_step.pth", FOUR),
        ("sana2_epoch_3_step_14.pth", FIFTY),
        ("epoch_4_step_12000.pth", FIFTY),
        ("epoch=4-step=12000.pth", FIFTY),
        ("sana2_14steps.pth", FIFTY),
    ],
)
def test_the_file_name_says_how_many_steps(file, name, family):
    assert checkpoint.read_checkpoint(file(name), config=CONFIG).family.name == family
    other = ({FIFTY, FOUR} - {family}).pop()
    assert checkpoint.read_checkpoint(file(name), config=CONFIG, family=other).family.name == other


def test_the_other_generation_is_refused(file):
    path = file("model.pth")
    for family in ("sana_video_480p", "sana_video_720p", "longsana_480p", "demo"):
        with pytest.raises(errors.InputError, match=f"is a SANA-Video 2.*{family} is not.*{FOUR}"):
            checkpoint.read_checkpoint(path, config=CONFIG, family=family)
    golden = GOLDEN2.parent / "golden"
    with pytest.raises(errors.InputError, match=r"not a SANA-Video 2.*longsana_480p"):
        checkpoint.read_checkpoint(
            golden / "weights_nvlabs.safetensors", config=golden / "config_diffusers.json", family=FOUR
        )


def test_our_file_holds_all_sizes(tmp_path):
    read = checkpoint.read_checkpoint(GOLDEN2 / "weights.safetensors")  # with the config.json beside it
    for family in (FIFTY, FOUR):
        path = tmp_path / "ours.safetensors"
        checkpoint.save_transformer(path, read.tensors, read.config, family)
        assert said_family.said_family(path) == family
        again = checkpoint.load_transformer(path)
        assert (again.config, again.family.name) == (read.config, family)
        assert again.fingerprint == PACK.core("files.fingerprint").weights_fingerprint(read.tensors)
        g = golden2("forward")
        expected = model2(PACK)(g["in_x"], g["in_t"], g["in_y"][:, 0])
        assert same(again(g["in_x"], g["in_t"], g["in_y"][:, 0]), expected)
        with pytest.raises(errors.InputError, match="and sana_video_480p was chosen"):
            said_family.check_family(path, "sana_video_480p")


def test_float16_is_refused_before_the_weights_are_read(file):
    with pytest.raises(errors.InputError, match="bfloat16 or float32"):
        checkpoint.load_transformer(file("a.pth"), config=CONFIG, dtype=torch.float16)
    halves = {name: tensor.half() for name, tensor in golden2("weights").items()}
    path = file("half.pth", weights=halves)
    assert checkpoint.load_transformer(path, config=CONFIG).dtype == torch.float32
    assert checkpoint.load_transformer(path, config=CONFIG, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "transformer.", "diffusion_model."])
def test_a_lora_reaches_every_layer(tmp_path, prefix):
    """Original names, as PEFT and others begin them; every weight and no other."""
    model = model2(PACK)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    layers = [n.removesuffix(".weight") for n, s in shapes.items() if n.endswith(".weight") and len(s) == 2]
    assert {"attn_res.mlp_proj", "blocks.0.attn.beta_proj", "blocks.3.mlp.gate_proj"} < set(layers)
    tensors: dict[str, torch.Tensor] = {}
    for layer in layers:
        rows, columns = shapes[f"{layer}.weight"]
        tensors[f"{prefix}{layer}.lora_A.weight"] = torch.ones(1, columns)
        tensors[f"{prefix}{layer}.lora_B.weight"] = torch.ones(rows, 1)
    _written(tmp_path, tensors)
    lora = read_lora(tmp_path / "lora.safetensors", shapes)
    assert not lora.unused
    assert {target.parameter for target in lora.targets.values()} == {f"{layer}.weight" for layer in layers}
    PACK.core("checkpoints.lora_apply").apply_loras(model, [(tmp_path / "lora.safetensors", 0.5)])
    before = golden2("weights")
    for name, tensor in model.state_dict().items():
        changed = name.removesuffix(".weight") in layers
        assert torch.allclose(tensor, before[name] + 0.5 * changed, atol=1e-6), name


def test_loras_with_underscores_and_parts_of_fused_layers(tmp_path):
    shapes = {name: tensor.shape for name, tensor in model2(PACK).state_dict().items()}
    layers = ["blocks_2_mlp_gate_proj", "blocks_1_cross_attn_q_linear", "blocks_0_attn_output_gate"]
    tensors = {}
    for layer, columns in ((name, 56) for name in layers):
        rows = 98 if "mlp" in layer else 56
        tensors[f"lora_unet_{layer}.lora_down.weight"] = torch.ones(1, columns)
        tensors[f"lora_unet_{layer}.lora_up.weight"] = torch.ones(rows, 1)
    for part in "qkv":
        tensors[f"blocks.4.attn.to_{part}.lora_A.weight"] = torch.ones(1, 56)
        tensors[f"blocks.4.attn.to_{part}.lora_B.weight"] = torch.ones(56, 1)
    _written(tmp_path, tensors)
    lora = read_lora(tmp_path / "lora.safetensors", shapes)
    assert not lora.unused
    assert {(t.parameter, t.rows) for t in lora.targets.values()} == {
        ("blocks.2.mlp.gate_proj.weight", None),
        ("blocks.1.cross_attn.q_linear.weight", None),
        ("blocks.0.attn.output_gate.weight", None),
        *(("blocks.4.attn.qkv.weight", (row, 56)) for row in (0, 56, 112)),
    }


def _written(folder, tensors):
    PACK.core("files.tensor_file").write_tensors(folder / "lora.safetensors", tensors, {})
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 1, "r": 1}))
