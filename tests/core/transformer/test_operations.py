"""A host's own layer classes are used everywhere, and nothing of the network goes around them."""

import copy

import torch
from support.pack import Pack
from torch import nn

PACK = Pack()
KINDS = ("Linear", "Conv2d", "Conv3d", "LayerNorm", "RMSNorm")


def _counting(made):
    """Layer classes of a host, which note what was made."""

    class Operations:
        pass

    for kind in KINDS:
        base = getattr(nn, kind)
        layer_class = type(
            kind,
            (base,),
            {"__init__": lambda self, *a, _b=base, **k: (_b.__init__(self, *a, **k), made.append(self))[0]},
        )
        setattr(Operations, kind, layer_class)
    return Operations


def test_every_weighted_layer_is_the_hosts():
    made = []
    config = PACK.core("config")
    model = PACK.core("transformer.model").SanaVideo(
        config.DEMO.config, config.DEMO, operations=_counting(made)
    )
    weighted = [m for m in model.modules() if isinstance(m, tuple(getattr(nn, kind) for kind in KINDS))]
    assert len(weighted) == len(made)
    assert {id(m) for m in weighted} == {id(m) for m in made}
    direct = {
        name
        for module in model.modules()
        if module not in made
        for name, _ in module.named_parameters(recurse=False)
    }
    assert direct == {"scale_shift_table"}


def test_parameter_names_are_the_originals():
    """The published 418 tensors, less the stored caption and positions, which no model uses."""
    config = PACK.core("config")
    with torch.device("meta"):
        model = PACK.core("transformer.model").SanaVideo(config.LONGSANA_480P.config, config.LONGSANA_480P)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(shapes) == 416
    assert shapes["blocks.19.attn.qkv.weight"] == (6720, 2240)
    assert shapes["blocks.0.cross_attn.kv_linear.bias"] == (4480,)
    assert shapes["blocks.0.mlp.depth_conv.conv.weight"] == (13440, 1, 3, 3)
    assert shapes["blocks.0.mlp.t_conv.weight"] == (2240, 2240, 3, 1)
    assert shapes["final_layer.scale_shift_table"] == (2, 2240)
    assert shapes["x_embedder.proj.weight"] == (2240, 16, 1, 2, 2)


def _casting():
    """Layer classes of a host that keeps weights in one dtype and computes in that of what comes in."""

    def forward(self, x):
        plain = copy.copy(self)
        plain.__class__ = type(self).__mro__[1]
        weights = {name: weight.to(x.dtype) for name, weight in self.named_parameters()}
        return torch.func.functional_call(plain, weights, (x,))

    kinds = {kind: type(kind, (getattr(nn, kind),), {"forward": forward}) for kind in KINDS}
    return type("Operations", (), kinds)


@torch.no_grad()
def test_a_host_may_compute_in_another_dtype_than_weights_are_kept_in():
    config, model = PACK.core("config"), PACK.core("transformer.model")

    class Hosted(model.SanaVideo):
        compute_dtype = torch.bfloat16

    stored = PACK.module("demo.model_set").seeded(
        Hosted(config.DEMO.config, config.DEMO, operations=_casting()), 0
    )
    narrow = (
        PACK.module("demo.model_set").seeded(model.SanaVideo(config.DEMO.config, config.DEMO), 0).bfloat16()
    )
    generator = torch.Generator().manual_seed(1)
    latents, text = (
        torch.randn(1, 16, 3, 4, 6, generator=generator),
        torch.randn(1, 5, config.DEMO.config.caption_channels, generator=generator),
    )
    made, expected = (m(latents, torch.full((1,), 700.0), text) for m in (stored, narrow))
    assert stored.dtype == torch.float32
    assert made.dtype == latents.dtype
    assert torch.equal(made, expected)
    for block, other in zip(stored.absorb(latents, text), narrow.absorb(latents, text), strict=True):
        assert block.tail.dtype == torch.bfloat16
        assert torch.equal(block.tail, other.tail)
        assert torch.equal(block.vk, other.vk)
    assert narrow.compute_dtype == torch.bfloat16
    assert (stored.compute_device, narrow.compute_device) == (torch.device("cpu"),) * 2
