"""Typical mistakes of a port of SANA-Video 2.0, each made on purpose in a copy of the pack.

As in test_mutations.py; the list is that of the golden tensors' notes.
"""

from __future__ import annotations

import pytest
import torch
from support import checks_sana2
from support.pack import Pack, forget, mutant

CORE = "sana_video_core"
LAYERS, LAYERS2 = f"{CORE}/transformer/layers.py", f"{CORE}/transformer/layers2.py"
PLAIN_FINAL = f"{CORE}/transformer/fused_block2.py"  # where the plain one stands, too
MODEL2, NETWORK = f"{CORE}/transformer/model2.py", f"{CORE}/transformer/network.py"
EMBEDDERS, POSITIONS = f"{CORE}/transformer/embedders.py", f"{CORE}/transformer/positions.py"
SCHEDULE, SOLVERS, ONE_SHOT = (f"{CORE}/sampling/{name}.py" for name in ("schedule", "solvers", "one_shot"))
CONFIG, SIZES, ROTATE = f"{CORE}/config.py", f"{CORE}/sizes.py", "kernels/linear_attention/reference.py"
# the quickest that may notice comes first
FORWARD = (checks_sana2.forward, checks_sana2.no_mask, checks_sana2.inside, checks_sana2.positions)
FRAMES = (checks_sana2.per_frame_and_token,)
GRIDS, FEW, DPM, PICTURE = ((check,) for check in checks_sana2.CHECKS[-4:])

MUTATIONS = {
    "ReLU on queries and keys": (
        FORWARD, LAYERS2, "q, k, v = (y.to(torch.float32) for y in (q, k * strength, v))",
        "q, k, v = (y.to(torch.float32) for y in (q.relu(), k.relu() * strength, v))",
    ),
    "a denominator": (FORWARD, LAYERS2, "out = q @ (v.mT @ k).mT",
                      "out = q @ (v.mT @ k).mT / (q @ k.sum(-2).unsqueeze(-1) + 1e-8)"),
    "beta left out": (FORWARD, LAYERS2, "(q, k * strength, v)", "(q, k, v)"),
    "beta without its sigmoid": (FORWARD, LAYERS2, "self.beta_proj(x).sigmoid()", "self.beta_proj(x)"),
    "o_norm left out": (FORWARD, LAYERS2, "merge_heads(self.o_norm(out.to(x.dtype)))",
                        "merge_heads(out.to(x.dtype))"),
    "o_norm over all heads": (
        FORWARD, LAYERS2, "merge_heads(self.o_norm(out.to(x.dtype)))",
        "F.rms_norm(y := merge_heads(out), y.shape[-1:], eps=SELF_NORM_EPS)"
        " * self.o_norm.weight.repeat(q.shape[1])",
    ),
    "o_norm without its weight": (FORWARD, LAYERS2, "self.o_norm(out.to(x.dtype))",
                                  "F.rms_norm(out, out.shape[-1:], eps=SELF_NORM_EPS)"),
    "epsilon of o_norm": (FORWARD, LAYERS2, "ops.RMSNorm(config.head_dim, eps=SELF_NORM_EPS",
                          "ops.RMSNorm(config.head_dim, eps=1e-6"),
    "a norm in the softmax layers, too": (
        FORWARD, LAYERS2, "return merge_heads(F.scaled_dot_product_attention(q, k, v))",
        "out = F.scaled_dot_product_attention(q, k, v)\n"
        "        return merge_heads(F.rms_norm(out, out.shape[-1:], eps=SELF_NORM_EPS))",
    ),
    "SiLU as the gate": (FORWARD, LAYERS2, "self.output_gate(x).sigmoid()", "F.silu(self.output_gate(x))"),
    "no gate in the softmax layers": (
        FORWARD, LAYERS2, "* self.output_gate(x).sigmoid()",
        "* (self.output_gate(x).sigmoid() if hasattr(self, 'o_norm') else 1)",
    ),
    "norm of queries within each head": (
        FORWARD, LAYERS2, "(self.q_norm(q), self.k_norm(k), v)",
        "(F.rms_norm(q.unflatten(-1, (-1, self.head_dim)), (self.head_dim,)).flatten(-2)"
        " * self.q_norm.weight, self.k_norm(k), v)",
    ),
    "epsilon of queries and keys": (FORWARD, LAYERS, "SELF_NORM_EPS = 1e-5", "SELF_NORM_EPS = 1e-6"),
    "epsilon of the cross-attention": (FORWARD, LAYERS, "CROSS_NORM_EPS = 1e-6", "CROSS_NORM_EPS = 1e-5"),
    "caption norm left out": (FORWARD, NETWORK, "caption = self.attention_y_norm(", "caption = ("),
    "caption made smaller again": (FORWARD, NETWORK, "caption = self.attention_y_norm(",
                                   "caption = 0.01 * self.attention_y_norm("),
    "epsilon of the caption norm": (FORWARD, NETWORK, "CAPTION_NORM_EPS = 1e-5", "CAPTION_NORM_EPS = 1e-6"),
    "GELU kind": (FORWARD, EMBEDDERS, 'approximate="tanh"', 'approximate="none"'),
    "epsilon of the blocks' norms": (FORWARD, LAYERS, "LAYER_NORM_EPS = 1e-6", "LAYER_NORM_EPS = 1e-5"),
    "halves of a head as pairs": (
        FORWARD, ROTATE, "even, odd = x.to(torch.float32).unflatten(-1, (-1, 2)).unbind(-1)",
        "even, odd = x.to(torch.float32).chunk(2, dim=-1)",
    ),
    "rows, columns, time": (FORWARD, SIZES, "return head_dim - 2 * space, space, space",
                            "return space, space, head_dim - 2 * space"),
    "rows and columns swapped": (FORWARD, POSITIONS, "lengths = (frames, *grid)",
                                 "lengths = (frames, grid.columns, grid.rows)"),
    "theta": (FORWARD, POSITIONS, "THETA = 10000.0", "THETA = 1000.0"),
    "no positions in the softmax layers": (
        FORWARD, LAYERS2, "self._turned(x, context.softmax_rotary)",
        "self._turned(x, (torch.ones_like(context.softmax_rotary[0]),"
        " torch.zeros_like(context.softmax_rotary[0])))",
    ),
    "the linear layers' angles in the softmax layers": (
        FORWARD, LAYERS2, "self._turned(x, context.softmax_rotary)",
        "self._turned(x, tuple(table.repeat(1, 2) for table in context.linear_rotary))",
    ),
    "values turned, too": (FORWARD, LAYERS2, "rotate(k, rotary), v\n",
                           "rotate(k, rotary), rotate(v, rotary)\n"),
    "the tokens are no source": (FORWARD, LAYERS2, "return mix(self.every, reader)",
                                 "return mix(self.every[1:] or self.every, reader)"),
    "the begun group is no source": (
        FORWARD, LAYERS2, "return mix(self.every, reader)", "return mix(self.closed, reader)",
    ),
    "a group goes on over its end": (FORWARD, LAYERS2, "self._replace(closed=self.every, begun=None)",
                                     "self._replace(closed=self.every)"),
    "size of a group": (FORWARD, SIZES, "(layer + 1) % self.group == 0",
                        "(layer + 1) % (self.group + 1) == 0"),
    "groups from the second layer": (FORWARD, SIZES, "(layer + 1) % self.group == 0",
                                     "layer % self.group == 0"),
    "keys not normalised": (FORWARD, LAYERS2, "F.linear(rows, vectors) * scale", "F.linear(rows, vectors)"),
    "values normalised": (
        FORWARD, LAYERS2, "return Source(values, F.linear",
        "return Source(values * scale.to(values.dtype), F.linear",
    ),
    "logits divided by the root of the width": (
        FORWARD, LAYERS2, "F.linear(rows, vectors) * scale",
        "F.linear(rows, vectors) * scale / rows.shape[-1] ** 0.5",
    ),
    "epsilon of the keys": (FORWARD, LAYERS2, "RESIDUAL_EPS = 1e-6", "RESIDUAL_EPS = 1e-5"),
    "one vector for both readers of a block": (FORWARD, LAYERS2, "sources.mixed(FEED_FORWARD)",
                                               "sources.mixed(ATTENTION)"),
    "a plain sum at the end": (FORWARD, PLAIN_FINAL, "sources.mixed(FINAL)",
                               "sum(source.values for source in sources.every)"),
    "an ordinary residual": (FORWARD, LAYERS2, "return attended + self.cross_attn(x + attended",
                             "return x + attended + self.cross_attn(x + attended"),
    "the cross-attention reads no self-attention": (FORWARD, LAYERS2, "self.cross_attn(x + attended",
                                                    "self.cross_attn(x"),
    "the cross-attention reads the change alone": (FORWARD, LAYERS2, "self.cross_attn(x + attended",
                                                   "self.cross_attn(attended"),
    "a gated cross-attention": (
        FORWARD, LAYERS2, "return attended + self.cross_attn(x + attended, text, text_bias)",
        "return attended + per_frame(self.cross_attn(x + attended, text, text_bias), gate, steps)",
    ),
    "text mask ignored": (FORWARD, NETWORK, "        if text_mask is not None:\n", "        if False:\n"),
    "heads of the cross-attention": (FORWARD, LAYERS, "self.head_dim = config.cross_head_dim",
                                     "self.head_dim = config.head_dim"),
    "halves of SwiGLU exchanged": (FORWARD, LAYERS2, "F.silu(self.gate_proj(x)) * self.up_proj(x)",
                                   "F.silu(self.up_proj(x)) * self.gate_proj(x)"),
    "shift and scale of a block exchanged": (FORWARD, LAYERS, "* (1 + scale) + shift",
                                             "* (1 + shift) + scale"),
    "shift and scale at the end exchanged": (FORWARD, LAYERS, "shift, scale = table.unsqueeze(2).unbind(3)",
                                             "scale, shift = table.unsqueeze(2).unbind(3)"),
    "timesteps not truncated": (FORWARD, POSITIONS, "torch.floor(timesteps.to(torch.float64) + 0.0001)",
                                "timesteps"),
    "timesteps rounded": (FORWARD, POSITIONS, "torch.floor(timesteps.to(torch.float64) + 0.0001)",
                          "torch.round(timesteps)"),
    "sines first": (FORWARD, POSITIONS, "[angles.cos(), angles.sin()]", "[angles.sin(), angles.cos()]"),
    "frequencies over 127": (FORWARD, POSITIONS, "device=timesteps.device) / half",
                             "device=timesteps.device) / (half - 1)"),
    "no SiLU before the modulation": (FORWARD, NETWORK, "nn.Sequential(nn.SiLU(), operations",
                                      "nn.Sequential(nn.Identity(), operations"),
    "SiLU in the last layer": (FORWARD, LAYERS, "self.scale_shift_table.to(time) + time.unsqueeze(2)",
                               "self.scale_shift_table.to(time) + F.silu(time).unsqueeze(2)"),
    "the first frame's time for all": (
        FRAMES, MODEL2, "times = timesteps_in_rows(times, latents.shape[0], context.frames, context.grid)",
        "times = timesteps_in_rows(times, latents.shape[0], context.frames, context.grid)[:, :1]",
    ),
    "the mean of all times": (
        FRAMES, MODEL2, "times = timesteps_in_rows(times, latents.shape[0], context.frames, context.grid)",
        "times = timesteps_in_rows(times, *latents.shape[:1], context.frames, context.grid).mean(1, True)",
    ),
    "DPM of first order": (DPM, SOLVERS, "if before is not None:", "if False:"),
    "branches swapped": (DPM, ONE_SHOT, "return uncond + sampling.cfg * (cond - uncond)",
                         "return cond + sampling.cfg * (uncond - cond)"),
    "guidance on top of the text": (DPM, ONE_SHOT, "return uncond + sampling.cfg * (cond - uncond)",
                                    "return cond + sampling.cfg * (cond - uncond)"),
    "DPM grid from 1": (GRIDS, SCHEDULE, "_spaced(1 / TRAINING_STEPS, 1.0, steps + 1)",
                        "_spaced(1e-6, 1.0, steps + 1)"),
    "guidance of the family": (DPM, CONFIG, "    cfg=8.0", "    cfg=6.0"),
    "four steps of Euler": (FEW, ONE_SHOT, '"few_step": (sample_few_step, dpm_sigmas)',
                            '"few_step": (_from_first(sample_euler), dpm_sigmas)'),
    "noise of the same level": (
        FEW, SOLVERS, "x = level.noise * draw(number) + (1 - level.noise) * clean",
        "x = (n := few_step_levels(sigmas, rule)[number - 1].noise) * draw(number) + (1 - n) * clean",
    ),
    "the first noise again": (FEW, SOLVERS, "level.noise * draw(number)", "level.noise * draw(0)"),
    "sigmas of whole timesteps": (FEW, SOLVERS, "clean = x - level.estimate * velocity",
                                  "clean = x - int(1000 * level.estimate) / 1000 * velocity"),
    "sigmas of 1, 0.75, 0.5, 0.25": (
        GRIDS, ONE_SHOT, '"few_step": (sample_few_step, dpm_sigmas)',
        '"few_step": (sample_few_step, lambda *_: (1, 0.75, 0.5, 0.25, 0))',
    ),
    "the picture is sampled, too": (
        PICTURE, ONE_SHOT, "x if image is None else torch.cat([image, x], dim=2)\n        v =",
        "x if image is None else torch.cat([x[:, :, :1], x], dim=2)\n        v =",
    ),
    "the picture at the time of the rest": (PICTURE, ONE_SHOT, "timesteps[:, 0] = 0", "timesteps[:, 1] = 0"),
    "Euler grid warped once": (GRIDS, SCHEDULE, "lowest = warp(1 / TRAINING_STEPS, shift)",
                               "lowest = 1 / TRAINING_STEPS"),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", MUTATIONS)
def test_mistake_is_noticed(name, tmp_path):
    checks, file, old, new = MUTATIONS[name]
    pack = mutant(tmp_path, f"mutant2_{list(MUTATIONS).index(name)}", file, old, new)
    try:
        assert any(_fails(check, pack) for check in checks), "no check noticed"
    finally:
        forget(pack)


@torch.no_grad()
def test_the_unchanged_copy_passes(tmp_path):
    """Without this, a broken copy would count as a noticed mistake."""
    line = "THETA = 10000.0"
    pack = mutant(tmp_path, "unchanged2", POSITIONS, line, line)
    try:
        for check in checks_sana2.CHECKS:
            check(pack)
    finally:
        forget(pack)


def _fails(check, pack: Pack) -> bool:
    """True when the check's assertion fails. Any other error is the mutation's fault and is raised."""
    try:
        check(pack)
    except AssertionError:
        return True
    return False
