"""Checks of SANA-Video 2.0 against its golden tensors. Each takes a Pack and asserts.

They are functions, not tests, because the mutation list runs them on broken copies of the pack.
"""

from __future__ import annotations

import torch
from support.pack import Pack, assert_close
from support.sana2 import golden2, model2
from torch import Tensor

# largest absolute differences: of outputs, of what is in between, of solvers with recorded velocities
OUT, INSIDE, REPLAY = 1e-4, 5e-5, 2e-5


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


def grids(pack: Pack) -> None:
    schedule = pack.core("sampling.schedule")
    g = golden2("sampler_dpm")
    for shift in (12, 6):
        for steps in (50, 4):
            assert_close(Tensor(schedule.dpm_sigmas(steps, shift)), g[f"sigma_shift{shift}_n{steps}"], 1e-6)
    sampling = pack.core("sampling.one_shot").ClipSampling(steps=4, sampler="few_step", shift=6, cfg=1)
    assert_close(Tensor(sampling.sigmas), golden2("sampler_4step")["sigmas"], 1e-6)
    for steps in (50, 6):
        assert_close(
            Tensor(schedule.euler_sigmas(steps, 12)), golden2("sampler_ti2v")[f"n{steps}_sigma"], 1e-6
        )


def four_steps(pack: Pack) -> None:
    """The whole loop, with the recorded draws; each of its steps on its own."""
    g, model, one_shot = golden2("sampler_4step"), model2(pack), pack.core("sampling.one_shot")
    text = model.prepare_text(g["in_y"][:, 0], g["in_mask"])
    for number in range(4):
        x, sigma = g[f"mid_s{number}_in"], g["sigmas"][number].item()
        v = model(x, g[f"mid_s{number}_t"], text)
        assert_close(v, g[f"mid_s{number}_v"], 2e-4)
        assert_close(x - sigma * g[f"mid_s{number}_v"], g[f"mid_s{number}_x0"], 1e-5)
    draws = {0: g["in_noise"]} | {number: g[f"noise_{number}"] for number in (1, 2, 3)}
    drawn = one_shot.draw_noise
    one_shot.draw_noise = lambda seed, first, frames, draw, **_: draws[draw]
    try:
        for recorded in (True, False):
            called = Recorded(model, [g[f"mid_s{number}_v"] for number in range(4)]) if recorded else model
            sampling = one_shot.ClipSampling(steps=4, sampler="few_step", shift=6, cfg=1)
            grid = pack.core("shapes").LatentGrid(3, 5)
            out = one_shot.sample_clip(called, text, None, grid, 4, sampling, batch=2)
            assert_close(out, g["out"], 2e-5 if recorded else 3e-4)
            if recorded:
                for number, (x, t) in enumerate(called.calls):
                    assert_close(x, g[f"mid_s{number}_in"], 1e-5)
                    assert_close(t, g[f"mid_s{number}_t"], 1e-2)
    finally:
        one_shot.draw_noise = drawn


def fifty_steps(pack: Pack) -> None:
    """DPM-Solver++ with guidance: recorded velocities give the recorded latents; then each velocity."""
    g = golden2("sampler_dpm")
    for steps in (50, 8):
        _replayed(pack, g, steps, "dpm++")
        _velocities(pack, g, steps, g[f"n{steps}_model_t"][:, None])


def from_a_picture(pack: Pack) -> None:
    """The same with Euler steps, where frame 0 is a picture."""
    g = golden2("sampler_ti2v")
    for steps in (50, 6):
        _replayed(pack, g, steps, "euler", image=g[f"n{steps}_x"][:1, :, :1])
        _velocities(pack, g, steps, g[f"n{steps}_model_t"][:, 0])


class Recorded:
    """Stands in for a network: returns recorded velocities, and keeps what it was called with."""

    def __init__(self, model, velocities) -> None:
        self.family, self.config, self.device = model.family, model.config, model.device
        self.velocities, self.calls = iter(velocities), []

    def __call__(self, x: Tensor, t: Tensor, text) -> Tensor:
        self.calls.append((x, t))
        return next(self.velocities)


def _texts(model, g: dict[str, Tensor]):
    mask = g["in_mask_uncond_cond"]
    return [
        model.prepare_text(g[f"in_y_{kind}"][:, 0], mask[row : row + 1])
        for row, kind in enumerate(("uncond", "cond"))
    ]


def _replayed(pack: Pack, g: dict[str, Tensor], steps: int, sampler: str, image=None) -> None:
    """Sample with the recorded velocities, on the recorded grid: at sigma 0.9999, 1e-7 more is felt."""
    model, one_shot = model2(pack), pack.core("sampling.one_shot")
    negative, positive = _texts(model, g)
    inputs = g[f"n{steps}_x"]
    recorded = Recorded(model, g[f"n{steps}_v_uncond_cond"])
    family, grid = model.family, pack.core("shapes").LatentGrid(2, 4)
    kept = one_shot.SAMPLERS[sampler]
    one_shot.SAMPLERS[sampler] = kept[0], lambda *_: tuple(g[f"n{steps}_sigma"].tolist())
    try:
        how = one_shot.ClipSampling(steps=steps, sampler=sampler, shift=family.shift, cfg=family.cfg)
        given = {"noise": inputs[:1], "image": image}
        out = one_shot.sample_clip(recorded, positive, negative, grid, 3, how, **given)
    finally:
        one_shot.SAMPLERS[sampler] = kept
    assert_close(out, g[f"n{steps}_out"], REPLAY)
    for (x, t), expected, time in zip(recorded.calls, inputs, g[f"n{steps}_model_t"], strict=True):
        assert_close(x, expected.expand(2, -1, -1, -1, -1), REPLAY)
        assert_close(t, time.expand(t.shape), 1e-3)


def _velocities(pack: Pack, g: dict[str, Tensor], steps: int, times: Tensor) -> None:
    """All steps as one batch; times [steps, 1] or [steps, F]."""
    model, x, expected = model2(pack), g[f"n{steps}_x"], g[f"n{steps}_v_uncond_cond"]
    for row, text in enumerate(_texts(model, g)):
        assert_close(model(x, times.expand(-1, x.shape[2]), text), expected[:, row], 2e-4)


CHECKS = (
    forward, no_mask, per_frame_and_token, inside, positions,
    grids, four_steps, fifty_steps, from_a_picture,
)  # fmt: skip
