"""Checks of SANA-Video 2.0 against its golden tensors. Each takes a Pack and asserts.

They are functions, not tests, because the mutation list runs them on broken copies of the pack.
"""

from __future__ import annotations

import torch
from support.pack import Pack, assert_close
from support.sana2 import golden2, model2
from torch import Tensor

OUT, INSIDE = 1e-4, 5e-5  # largest absolute differences of the README


def forward(pack: Pack) -> None:
    g, model = golden2("forward"), model2(pack)
    assert_close(model(g["in_x"], g["in_t"], g["in_y"][:, 0], g["in_mask"]), g["out"], OUT)


def no_mask(pack: Pack) -> None:
    g, model = golden2("forward"), model2(pack)
    assert_close(model(g["in_x"], g["in_t"], g["in_y"][:, 0]), g["out_nomask"], OUT)


def per_frame_and_token(pack: Pack) -> None:
    g, model = golden2("forward_perframe"), model2(pack)
    text = g["in_y"][:, 0], g["in_mask"]
    assert_close(model(g["in_x"], g["in_t"][:, 0], *text), g["out"], OUT)
    assert_close(model(g["in_x"], g["in_t"], *text), g["out"], OUT)
    assert_close(model(g["in_x"], g["in_t_token"][:, 0], *text), g["out_token"], OUT)
    assert_close(model(g["in_x"], g["in_t_token"], *text), g["out_token"], OUT)


def inside(pack: Pack) -> None:
    """Every intermediate of both files."""
    for name in ("forward", "forward_perframe"):
        g = golden2(name)
        seen = _intermediates(pack, g)
        wanted = [key for key in g if key.startswith("mid_")]
        assert len(wanted) == {"forward": 34, "forward_perframe": 7}[name]
        for key in wanted:
            expected = g[key]
            if key == "mid_y":  # padding is left out before it costs anything
                expected = expected[:, 0, : int(g["in_mask"].sum(1).max())]
            assert_close(seen[key].reshape(expected.shape), expected, INSIDE)


def positions(pack: Pack) -> None:
    g, model = golden2("forward"), model2(pack)
    context = model._context(g["in_x"])
    for kind, table in (("linear", context.linear_rotary), ("softmax", context.softmax_rotary)):
        for part, tensor in zip(("cos", "sin"), table, strict=True):
            assert_close(tensor, g[f"rope_{kind}_{part}"], 1e-6)
    features = pack.core("transformer.positions").timestep_features(g["in_t"])
    assert_close(features, g["t_sinusoid"], INSIDE)


def _intermediates(pack: Pack, g: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a forward makes on its way, under the names of the golden files."""
    model, seen = model2(pack), {}

    def keep(key: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _, args, out: seen.__setitem__(key, out))

    def watch(key: str, module: torch.nn.Module, method: str, out_key: str, in_key: str) -> None:
        inner = getattr(module, method)

        def call(x: Tensor, *args):
            seen[f"{key}_{in_key}"] = x
            seen[f"{key}_{out_key}"] = out = inner(x, *args)
            return out

        setattr(module, method, call)

    keep("mid_x_embed", model.x_embedder)
    keep("mid_t_embed", model.t_embedder)
    keep("mid_t_block", model.t_block)
    keep("mid_y", model.attention_y_norm)
    for number, block in enumerate(model.blocks):
        watch(f"mid_b{number}", block, "attention_change", "attn_delta", "attn_in")
        watch(f"mid_b{number}", block, "feed_forward_change", "mlp_delta", "mlp_in")
        keep(f"mid_b{number}_selfattn", block.attn)
        keep(f"mid_b{number}_crossattn", block.cross_attn)
        keep(f"mid_b{number}_mlp", block.mlp)
    model.final_layer.register_forward_pre_hook(lambda _, args: seen.__setitem__("mid_final_in", args[0]))
    model(g["in_x"], g["in_t"], g["in_y"][:, 0], g["in_mask"])
    return seen


CHECKS = (forward, no_mask, per_frame_and_token, inside, positions)
