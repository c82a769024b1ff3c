"""Fused blocks and the layers of others: weights that a host lends, layers beyond their weight."""

from contextlib import contextmanager
from itertools import product

import pytest
import torch
from comfyui_sana_video.sana_video_core.transformer import network as module
from comfyui_sana_video.sana_video_core.transformer import ops
from comfyui_sana_video.sana_video_core.transformer.gemm import layer_weights
from support.fused_blocks import PACK, fused_fixture, inputs, text_for  # noqa: F401
from support.pack import assert_close


@torch.no_grad()
def test_weights_are_asked_of_the_host(fused, monkeypatch):
    """A host may hold other weights than those that a layer has in its attribute."""
    tiny = PACK.tiny_model()
    x, _ = inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels)
    asked, likes = [], set()

    def hand_out(layer, like):
        asked.append(type(layer).__name__)
        likes.add(like.dtype)
        return layer_weights(layer, like)

    tiny.weights_of = hand_out
    tiny(x, torch.full((2,), 500), text)
    assert set(asked) == {"RMSNorm", "Conv2d", "Conv3d", "Linear"}
    assert asked.count("Linear") == 2 * tiny.config.depth, "two projections are more than their layers"
    assert likes == {torch.float32}
    asked.clear()
    likes.clear()
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(True, "", fp8=True))
    tiny.bfloat16()(x, torch.full((2,), 500), text)
    assert set(asked) == {"RMSNorm", "Conv2d", "Conv3d", "Linear"}
    assert asked.count("Linear") == 4 * tiny.config.depth
    assert likes == {torch.bfloat16}, "a host casts to it"


@contextmanager
def _lent(layer, like):
    """As a host that fetches: what it lends is somebody else's when it is given back."""
    weight, bias = (
        None if part is None else part.clone() for part in (layer.weight, getattr(layer, "bias", None))
    )
    try:
        yield weight, bias
    finally:
        for part in (weight, bias):
            if part is not None:
                part.fill_(float("nan"))


@torch.no_grad()
@pytest.mark.parametrize("fp8", [False, True])
def test_what_a_host_lends_is_not_used_later(fused, monkeypatch, fp8):
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(True, "", fp8))
    tiny, (x, _) = PACK.tiny_model(), inputs()
    tiny, text, outputs = tiny.bfloat16() if fp8 else tiny, text_for(tiny), []
    for tiny.weights_of in (layer_weights, _lent):
        memory = tiny.absorb(x, text)
        outputs.append(tiny(x, torch.full((2,), 500), text, memory=memory, first_frame=3))
    assert outputs[0].isfinite().all()
    assert torch.equal(*outputs)


def _changed(out):
    """What somebody makes of a layer's output: no norm and no attention takes it for the same."""
    if isinstance(out, tuple):
        return _changed(out[0]), *out[1:]
    return out.abs()


class Altered(torch.nn.Linear):
    """A layer that is more than its weight, as a quantised one."""

    def forward(self, x):
        return _changed(super().forward(x))


class Subclass(torch.Tensor):
    """A weight that is more than its numbers, as a quantised one."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is not torch.nn.functional.linear:
            return super().__torch_function__(function, types, args, kwargs)
        plain = [part.as_subclass(torch.Tensor) if isinstance(part, cls) else part for part in args]
        return _changed(function(*plain))


def _altered(layer):
    layer.__class__ = Altered


def _weight_altered(layer):
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Subclass), requires_grad=False)


def _hooked(layer):
    layer.register_forward_hook(lambda layer, args, out: _changed(out))


def _hooked_before(layer):
    layer.register_forward_pre_hook(lambda layer, args: (_changed(args[0]), *args[1:]))


def _replaced(layer):
    """As ComfyUI's LoRAs in bypass mode."""
    forward = layer.forward
    layer.forward = lambda *args: _changed(forward(*args))


class Wider(torch.nn.Module):
    def forward(self, weight):
        return _changed(weight)


def _parametrized(layer):
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Wider())


LAYERS = (
    "attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.q_norm", "cross_attn.proj",
    "attn.q_norm", "attn.k_norm", "norm1", "norm2", "mlp.inverted_conv.conv", "mlp.depth_conv.conv",
    "mlp.point_conv", "mlp.t_conv", "mlp", "cross_attn",
)  # fmt: skip
EVERYWHERE = [f"blocks.1.{name}" for name in LAYERS] + [
    "x_embedder", "x_embedder.proj", "final_layer.norm_final", "final_layer.linear",
]  # fmt: skip
CASES = [(name, way) for name in EVERYWHERE for way in (_hooked, _hooked_before, _replaced)]
CASES += [
    (f"blocks.0.{name}", way)
    for name in LAYERS[:3] + LAYERS[4:5]
    for way in (_altered, _weight_altered, _parametrized)
]


@torch.no_grad()
@pytest.mark.parametrize("hosted", [False, True], ids=["", "hosted"])
def test_layers_that_are_more_than_their_weight_run_as_they_are(fused, monkeypatch, subtests, hosted):
    for name, way in CASES:
        if hosted and way in (_altered, _weight_altered):
            continue  # a host knows its kinds of layers and weights
        with subtests.test(name=name, way=way.__name__), monkeypatch.context() as patched:
            _check_changed_layer(fused, patched, name, way, hosted)


def _check_changed_layer(fused, patched, name, way, hosted):
    tiny, (x, _) = PACK.tiny_model(), inputs()
    if hosted:
        tiny.weights_of = lambda layer, like: layer_weights(layer, like)
    text, times = text_for(tiny), torch.tensor([300, 700])
    before = tiny(x, times, text)
    way(tiny.get_submodule(name))
    fused.clear()
    output = tiny(x, times, text)
    assert fused, "one layer is no reason for all blocks"
    patched.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))
    truth = tiny(x, times, text)
    assert (output - truth).norm() / truth.norm() < 1e-5
    assert (output - before).norm() / before.norm() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("name", ["attn.qkv", "cross_attn.proj", "mlp.t_conv"])
def test_a_changed_block_is_not_in_8_bits(fused, monkeypatch, name):
    """The others are."""
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(True, "", fp8=True))
    tiny, (x, _) = PACK.tiny_model().bfloat16(), inputs()
    for way in (_replaced, _hooked):
        way(tiny.blocks[1].get_submodule(name))
        fused.clear()
        tiny(x, torch.tensor([300, 700]), text_for(tiny))
        assert len(fused) == tiny.config.depth - 1


@torch.no_grad()
def test_a_host_vouches_for_its_kinds_of_layers(fused):
    tiny, (x, _), asked = PACK.tiny_model(), inputs(), []
    for block in tiny.blocks:
        _altered(block.attn.proj)

    def hand_out(layer, like):
        asked.append(layer)
        return layer_weights(layer, like)

    tiny.weights_of = hand_out
    tiny(x, torch.full((2,), 500), text_for(tiny))
    assert all(block.attn.proj in asked for block in tiny.blocks)


class Wrapper(torch.nn.Module):
    """What somebody puts in place of a part: without a weight, as GPTQ's and AWQ's layers are."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "weight":
                raise
            return getattr(self.part, name)

    def forward(self, *args):
        return _changed(self.part(*args))


def _wrapped(network, name):
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, Wrapper(network.get_submodule(name)))


def _subclassed(network, name):
    part = network.get_submodule(name)
    kind = type(part)
    part.__class__ = type(
        "Other", (kind,), {"forward": lambda self, *args: _changed(kind.forward(self, *args))}
    )


PARTS = (
    "attn",
    "attn.proj",
    "cross_attn",
    "cross_attn.q_linear",
    "cross_attn.proj",
    "mlp",
    "mlp.inverted_conv",
    "mlp.t_conv",
    "mlp.point_conv.conv",
)
OTHERS = [f"blocks.1.{name}" for name in PARTS] + ["blocks.1", "x_embedder", "x_embedder.proj", "final_layer"]


@torch.no_grad()
@pytest.mark.parametrize("fp8", [False, True])
def test_parts_of_other_kinds_run_as_they_are(fused, monkeypatch, subtests, fp8):
    for name, way in product(OTHERS, (_wrapped, _subclassed)):
        with subtests.test(name=name, way=way.__name__), monkeypatch.context() as patched:
            patched.setattr(module, "choose", lambda *args: ops.Choice(True, "", fp8))
            tiny, (x, _) = PACK.tiny_model(), inputs()
            tiny, text, times = tiny.bfloat16() if fp8 else tiny, text_for(tiny), torch.tensor([300, 700])
            way(tiny, name)
            output = tiny(x, times, text)
            patched.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))
            truth = tiny(x, times, text)
            assert (output - truth).norm() / truth.norm() < (0.1 if fp8 else 1e-5)


@torch.no_grad()
def test_autocast_takes_the_plain_block(fused):
    tiny, (x, _) = PACK.tiny_model(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        tiny(x, torch.full((2,), 500), text_for(tiny))
    assert not fused


def test_kernels_are_chosen_for_where_and_in_what_the_model_computes(monkeypatch):
    """Not for where and in what its input comes."""
    asked, tiny = [], PACK.tiny_model()
    monkeypatch.setattr(module, "choose", lambda *args: asked.append(args) or ops.Choice(False, "asked"))
    with torch.no_grad():
        tiny(inputs()[0].double(), torch.full((2,), 500), text_for(tiny))
    assert asked[0][1:3] == (torch.device("cpu"), torch.float32)


def test_latents_that_learn_take_the_plain_block(fused):
    tiny, (x, _) = PACK.tiny_model().requires_grad_(False), inputs()
    x.requires_grad_(True)
    tiny(x, torch.full((2,), 500), text_for(tiny)).sum().backward()
    assert not fused
    assert x.grad.abs().sum() > 0


@torch.no_grad()
def test_projections_without_a_bias(fused, monkeypatch):
    tiny, (x, _) = PACK.tiny_model(), inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    for block in tiny.blocks:
        block.attn.proj.bias = block.cross_attn.proj.bias = None
    output = tiny(x, torch.full((2,), 500), text)
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))
    assert_close(output, tiny(x, torch.full((2,), 500), text), 1e-5)
