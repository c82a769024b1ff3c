"""A host's own layer classes are used everywhere, and nothing of the network goes around them."""

import torch
from pack import Pack
from torch import nn

PACK = Pack()
KINDS = ("Linear", "Conv2d", "Conv3d", "LayerNorm", "RMSNorm")


def _counting(made):
    """Layer classes of a host, which note what was made."""

    class Operations:
        pass

    for kind in KINDS:
        base = getattr(nn, kind)
        own = type(
            kind,
            (base,),
            {"__init__": lambda self, *a, _b=base, **k: (_b.__init__(self, *a, **k), made.append(self))[0]},
        )
        setattr(Operations, kind, own)
    return Operations


def test_every_weighted_layer_is_the_hosts():
    made = []
    config = PACK.core("config")
    model = PACK.core("model").SanaVideo(config.DEMO.config, config.DEMO, operations=_counting(made))
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
        model = PACK.core("model").SanaVideo(config.LONGSANA_480P.config, config.LONGSANA_480P)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(shapes) == 416
    assert shapes["blocks.19.attn.qkv.weight"] == (6720, 2240)
    assert shapes["blocks.0.cross_attn.kv_linear.bias"] == (4480,)
    assert shapes["blocks.0.mlp.depth_conv.conv.weight"] == (13440, 1, 3, 3)
    assert shapes["blocks.0.mlp.t_conv.weight"] == (2240, 2240, 3, 1)
    assert shapes["final_layer.scale_shift_table"] == (2, 2240)
    assert shapes["x_embedder.proj.weight"] == (2240, 16, 1, 2, 2)
