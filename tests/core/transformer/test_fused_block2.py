"""The block of SANA-Video 2.0 in fused operations: the golden tensors, and layers2.py where it has none."""

import pytest
import torch
from comfyui_sana_video.kernels import dispatch
from comfyui_sana_video.sana_video_core.transformer import fused_block2 as fused_module
from comfyui_sana_video.sana_video_core.transformer import model2 as module
from comfyui_sana_video.sana_video_core.transformer import ops, runner
from comfyui_sana_video.sana_video_core.transformer.fused_block2 import fused_block2
from comfyui_sana_video.sana_video_core.transformer.gemm import layer_weights
from support import checks_sana2
from support.pack import Pack, assert_close
from support.sana2 import golden2, model2
from torch.utils._pytree import tree_leaves

PACK = Pack()


def chosen(monkeypatch, **choice):
    monkeypatch.setattr(module, "choose_gated", lambda *args: ops.Choice(**({"reason": ""} | choice)))


@pytest.fixture
def fused(monkeypatch):
    """Fused blocks in their plain operations; counts them."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return fused_block2(*args, **kwargs)

    chosen(monkeypatch, triton=True)
    monkeypatch.setattr(runner, "fused_block2", counted)
    return calls


def given(batch=2):
    g = golden2("forward")
    return g["in_x"][:batch], g["in_t"][:batch], g["in_y"][:batch, 0], g["in_mask"][:batch]


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("check", ["forward", "no_mask", "per_frame_and_token"])
def test_golden(fused, check):
    getattr(checks_sana2, check)(PACK)
    assert fused


@torch.no_grad()
def test_through_the_interpreter(fused, monkeypatch):
    """Every operation is the Triton version: a linear and a softmax layer, a group's end, times of frames."""
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("this machine has a GPU: test_gpu.py does this on it")
    model, (x, _, text, mask) = model2(PACK), given(1)
    x, t, text, mask = x[:, :, :2, :1, :1], torch.tensor([[0, 889]]), text, mask
    monkeypatch.setattr(model.config.__class__, "closes_group", lambda self, layer: layer == 0)
    model.blocks = model.blocks[2:5]
    outputs = {}
    for interpreted in (True, False):
        monkeypatch.setattr(dispatch, "INTERPRETED", interpreted)
        outputs[interpreted] = model(x, t, text, mask)
    assert len(fused) == 6
    assert relative(outputs[True], outputs[False]) < 1e-5
    assert not torch.equal(outputs[True], outputs[False]), "the plain versions ran twice"


@torch.no_grad()
def test_the_feed_forward_in_pieces(fused, monkeypatch):
    model, inputs = model2(PACK), given()
    whole = model(*inputs)
    monkeypatch.setattr(fused_module, "ROWS_AT_ONCE", 7)
    assert_close(model(*inputs), whole, 1e-5)


@torch.no_grad()
def test_bf16_and_8_bits(fused, monkeypatch):
    """8 bits are a few percent a GEMM, and this network of 56 numbers multiplies each rounding by ten."""
    expected, model = golden2("forward")["out"], model2(PACK).bfloat16()
    assert relative(model(*given()), expected) < 0.05
    chosen(monkeypatch, triton=True, fp8=True)
    assert 0.05 < relative(model(*given()).float(), expected) < 0.3


@torch.no_grad()
def test_8_bits_that_lose_nothing_change_nothing(fused, monkeypatch):
    """Every GEMM goes the way of FP8: only their rounding is left out."""
    made = []

    def rows(values):
        made.append(tuple(values.shape))
        return ops.Fp8Rows(values, torch.ones_like(values[..., :1]))

    def gemm(rows, weight, bias, dtype, out=None):
        return torch.addmm(torch.zeros(1) if bias is None else bias, rows.values, weight.values.T, out=out)

    def in_8_bits(name):
        plain = getattr(ops, name)

        def run(*args, **kwargs):
            result = plain(*args, **kwargs)
            if isinstance(result, torch.Tensor):
                return rows(result)
            return result._replace(h=rows(result.h))

        return run

    def gated_residual_fp8(*args):
        x = ops.gated_residual(*args)
        return x, rows(x)

    for name in ("residual_mix", "silu_product", "sigmoid_product"):
        monkeypatch.setattr(ops, f"{name}_fp8", in_8_bits(name))
    for name, stands_in in (
        ("gated_residual_fp8", gated_residual_fp8), ("fp8_rows", rows), ("fp8_gemm", gemm),
    ):  # fmt: skip
        monkeypatch.setattr(ops, name, stands_in)
    chosen(monkeypatch, triton=True, fp8=True)
    checks_sana2.forward(PACK)
    d, hidden, layers = 56, 98, 8
    weights = [(3 * d, d), *[(d, d)] * 4, *[(hidden, d)] * 2, (d, hidden)]
    assert sum(shape in weights for shape in made) == len(weights) * layers


LAYERS = (
    "attn.qkv", "attn.beta_proj", "attn.output_gate", "attn.proj", "attn.q_norm", "attn.k_norm",
    "attn.o_norm", "cross_attn.q_linear", "cross_attn.q_norm", "cross_attn.proj", "norm1", "norm2",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp", "cross_attn", "attn",
)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("fp8", [False, True], ids=["full", "fp8"])
def test_layers_that_somebody_changed_run_as_they_are(fused, monkeypatch, fp8):
    """In a block after a group's end, between fused ones; the others stay fused."""
    inputs = given(1)
    places = [f"blocks.4.{name}" for name in LAYERS] + ["blocks.3.attn", "final_layer.linear", "x_embedder"]
    inputs = (inputs[0][:, :, :1], *inputs[1:])
    for place in places if not fp8 else places[:4]:
        model = model2(PACK)
        model = model.bfloat16() if fp8 else model
        model.get_submodule(place).register_forward_hook(lambda layer, args, out: 1.5 * out.abs())
        chosen(monkeypatch, triton=False)
        truth = model(*inputs)
        chosen(monkeypatch, triton=True, fp8=fp8)
        fused.clear()
        output = model(*inputs)
        assert len(fused) >= len(model.blocks) - 1, place
        assert relative(output, truth) < (0.3 if fp8 else 1e-5), place


@torch.no_grad()
@pytest.mark.parametrize("plain", [(0,), (2, 3), (7,), (0, 1, 2, 3, 4, 5, 6, 7)], ids=str)
def test_plain_blocks_between_fused_ones(fused, plain):
    """At the beginning, around a group's end, and last."""
    model = model2(PACK)
    for layer in plain:
        model.blocks[layer].mlp.register_forward_hook(lambda layer, args, out: out)
    g = golden2("forward")
    assert_close(model(*given()), g["out"], 1e-4)
    assert len(fused) == len(model.blocks) - len(plain)


@torch.no_grad()
def test_a_block_writes_to_nothing_that_it_was_given(fused, monkeypatch):
    model, checked = model2(PACK), []

    def watched(*args, **kwargs):
        tensors = [part for part in tree_leaves(args) if isinstance(part, torch.Tensor)]
        before = [part.clone() for part in tensors]
        out = fused_block2(*args, **kwargs)
        checked.extend(map(torch.equal, tensors, before))
        return out

    monkeypatch.setattr(runner, "fused_block2", watched)
    weights = {name: part.clone() for name, part in model.named_parameters()}
    model(*given())
    assert len(checked) > 10 * len(model.blocks)
    assert all(checked)
    assert all(torch.equal(part, weights[name]) for name, part in model.named_parameters())


@torch.no_grad()
def test_weights_are_asked_of_the_host(fused, monkeypatch):
    """A host may hold other weights than those that a layer has in its attribute."""
    model, asked = model2(PACK), []

    def hand_out(layer, like):
        asked.append(layer)
        assert like.dtype == model.dtype
        return layer_weights(layer, like)

    model.weights_of = hand_out
    model(*given())
    for block in model.blocks:
        mlp, attn = block.mlp, block.attn
        assert {mlp.gate_proj, mlp.up_proj, mlp.down_proj, attn.q_norm, attn.k_norm} <= set(asked)
    chosen(monkeypatch, triton=True, fp8=True)
    asked.clear()
    model.bfloat16()(*given())
    for block in model.blocks:
        assert {block.attn.qkv, block.attn.output_gate, block.attn.proj, block.cross_attn.proj} <= set(asked)
        assert getattr(block.attn, "beta_proj", None) not in asked


def test_training_takes_the_plain_block(fused):
    model = model2(PACK).requires_grad_(True)
    model(*given()).sum().backward()
    assert not fused


@torch.no_grad()
def test_autocast_takes_the_plain_block(fused):
    with torch.autocast("cpu", torch.bfloat16):
        model2(PACK)(*given())
    assert not fused


@torch.no_grad()
@pytest.mark.parametrize("scale", [1e-3, 1e-5])
@pytest.mark.parametrize("where", ["x_embedder", "attn.qkv", "q_linear", "kv_linear"])
def test_every_epsilon_is_the_plain_blocks(fused, monkeypatch, where, scale):
    """Each in a place where numbers are so small that it counts."""
    model = model2(PACK)
    for name, parameter in model.named_parameters():
        if where in name:
            parameter.mul_(scale)
    output = model(*given())
    assert fused
    chosen(monkeypatch, triton=False)
    assert relative(output, model(*given())) < 1e-5


def test_what_the_kernels_are_chosen_for(monkeypatch):
    asked = []
    monkeypatch.setattr(
        module, "choose_gated", lambda *args: asked.append(args) or ops.Choice(False, "asked")
    )
    with torch.no_grad():
        model2(PACK)(*given())
    assert asked[0] == ("auto", torch.device("cpu"), torch.float32, (14, 28), 4, "full", (56, 98))
