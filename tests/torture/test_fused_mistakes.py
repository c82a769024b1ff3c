"""Mistakes made on purpose in the fused block of SANA-Video 2.0, its plain operations and its kernels.

`python -m pytest tests/torture/test_fused_mistakes.py --full` makes all of them in a minute; the suite, four.
Each is (file, text, replacement) in a copy of the pack; the text occurs once. Golden tensors notice those in
plain operations; of kernels, a small network through Triton's interpreter against its plain twin.
"""

import pytest
import torch
from support.checks_sana2 import forward, per_frame_and_token
from support.pack import Pack, forget, mutant
from support.sana2 import golden2, model2

FUSED = "sana_video_core/transformer/fused_block2.py"
MIX, ATTENTION, PRODUCT = "kernels/residual_mix", "kernels/gated_attention", "kernels/gated_product"
PLAIN = {
    "the sum of a group goes on": (FUSED, "gate1, None) if begins", "gate1, newest) if begins"),
    "a group is never closed": (FUSED, "self._replace(whole=True)", "self"),
    "a closed sum is lost": (FUSED, "(*pending.closed, Source(newest, logits))", "pending.closed"),
    "attention's gate on the feed-forward": (
        FUSED,
        "newest, branch, gate2, whole=False",
        "newest, branch, gate1, whole=False",
    ),
    "attention without its gate": (
        FUSED,
        "gemm.residual(mix, attended, gate1)",
        "gemm.residual(mix, attended, None)",
    ),
    "cross-attention lost": (FUSED, "(newest, attended, gate1, read)", "(newest, attended, gate1, None)"),
    "the feed-forward's vector before attention": (
        FUSED,
        "pending.mixed(ATTENTION",
        "pending.mixed(FEED_FORWARD",
    ),
    "attention's vector before the feed-forward": (
        FUSED,
        "vectors, FEED_FORWARD, *table",
        "vectors, ATTENTION, *table",
    ),
    "shift and scale exchanged": (
        FUSED,
        "mixed(ATTENTION, shift1, scale1",
        "mixed(ATTENTION, scale1, shift1",
    ),
    "shift and scale exchanged at the end": (FUSED, "mixed(FINAL, shift, scale", "mixed(FINAL, scale, shift"),
    "keys without strength": (FUSED, "SELF_NORM_EPS, strength)", "SELF_NORM_EPS)"),
    "norms of q and k exchanged": (
        FUSED,
        "gemm.weights_of(attn.k_norm",
        "gemm.weights_of(attn.q_norm, gate) as _, gemm.weights_of(attn.q_norm",
    ),
    "a settled sum without its branch": (FUSED, "if self.branch is not None:", "if False:"),
    "keys not normalised": (
        f"{MIX}/reference.py",
        " * (x.square().mean(-1, keepdim=True) + eps).rsqrt()",
        "",
    ),
    "logits divided by a root": (
        f"{MIX}/reference.py",
        "for part in logits], dim=-1)",
        "for part in logits], dim=-1).div(56**0.5)",
    ),
    "the newest sum isn't mixed": (
        f"{MIX}/reference.py",
        "*(source.values for source in others), x]",
        "*(source.values for source in others), x * 0]",
    ),
    "the strength not squashed": (f"{ATTENTION}/reference.py", "strength.sigmoid()", "strength"),
    "the head's norm left out": (
        f"{ATTENTION}/reference.py",
        "F.rms_norm(heads, heads.shape[-1:], weight.to(heads.dtype), eps)",
        "heads",
    ),
    "the sum transposed": (f"{ATTENTION}/reference.py", "keys.mT @ values", "values.mT @ keys"),
    "silu as the output's gate": (f"{PRODUCT}/reference.py", "x * gate.sigmoid()", "x * F.silu(gate)"),
    "hidden halves exchanged": (f"{PRODUCT}/reference.py", "x * F.silu(gate)", "gate * F.silu(x)"),
}
KERNELS = {
    "an earlier sum left out": (
        f"{MIX}/triton_kernel.py",
        "tl.exp(others[j] - most) / total, TILES",
        "0.0 * total, TILES",
    ),
    "another reader's logit": (f"{MIX}/triton_kernel.py", "row * READERS + READER, ", "row * READERS, "),
    "another reader's vector": (f"{MIX}/triton_kernel.py", "readers_ptr + READER * width", "readers_ptr"),
    "the gate on what is added beside": (
        f"{MIX}/triton_kernel.py",
        "            if HAS_GATE:\n",
        "            if HAS_EXTRA:\n"
        "                branch += tl.load(extra_ptr + columns, mask=mask, other=0.0)\n"
        "            if HAS_GATE:\n",
    ),
    "the modulation of the first frame": (
        f"{MIX}/triton_kernel.py",
        "clip * groups + token // group",
        "clip * groups",
    ),
    "the mean of a whole tile": (
        f"{MIX}/triton_kernel.py",
        "tl.sum(total, 0) / width",
        "tl.sum(total, 0) / TILE",
    ),
    "the variance of a whole tile": (
        f"{MIX}/triton_kernel.py",
        "tl.where(t * TILE + tl.arange(0, TILE) < width, mix[t] - mean, 0.0)",
        "mix[t] - mean",
    ),
    "a strength of one head for all": (
        f"{ATTENTION}/triton_kernel.py",
        "strength_ptr + row * heads + head",
        "strength_ptr + row * heads + 0 * head",
    ),
    "norm of a head, not of the row": (
        f"{ATTENTION}/triton_kernel.py",
        "tl.sum(tl.sum(square, 1), 0) / width",
        "tl.sum(tl.sum(square, 1), 0) / HEAD",
    ),
    "a head as wide as its tile": (
        f"{ATTENTION}/triton_kernel.py",
        "tl.sum(out * out, 1) / HEAD",
        "tl.sum(out * out, 1) / D",
    ),
    "keys and values exchanged": (
        f"{ATTENTION}/triton_kernel.py",
        "split_sums(_even(values), _even(keys), heads)",
        "split_sums(_even(keys), _even(values), heads)",
    ),
    "sigmoid in the feed-forward": (f"{PRODUCT}/triton_kernel.py", "open *= gate", "open *= 1.0"),
}
SUITE = (
    "a group is never closed",
    "the strength not squashed",
    "another reader's logit",
    "keys without strength",
)


def fused(pack: Pack, kernels: bool = False):
    """The golden model on fused blocks, in their plain operations or in Triton's interpreter."""
    ops = pack.core("transformer.ops")
    pack.core("transformer.model2").choose_gated = lambda *_: ops.Choice(True, "")
    pack.module("kernels.dispatch").INTERPRETED = kernels
    return model2(pack)


def plain_notices(pack: Pack) -> None:
    fused(pack)
    forward(pack)
    per_frame_and_token(pack)
    # a plain block after a fused one
    model, g = fused(pack), golden2("forward")
    model.blocks[3].mlp.register_forward_hook(lambda layer, args, out: out)
    out = model(g["in_x"], g["in_t"], g["in_y"][:, 0], g["in_mask"])
    assert (out - g["out"]).abs().max() <= 1e-4


@torch.no_grad()
def kernels_notice(pack: Pack) -> None:
    """A group's end behind the first of three layers, two latent frames of their own times."""
    outputs = []
    for kernels in (True, False):
        model, g = fused(pack, kernels), golden2("forward")
        type(model.config).closes_group = lambda self, layer: layer == 0
        model.blocks = model.blocks[2:5]
        times = torch.tensor([[0, 889]])
        outputs.append(model(g["in_x"][:1, :, :2, :1, :1], times, g["in_y"][:1, 0], g["in_mask"][:1]))
    assert (outputs[0] - outputs[1]).norm() / outputs[1].norm() < 1e-5


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        metafunc.parametrize("name", [*PLAIN, *KERNELS] if full else SUITE)


def test_mistake_is_noticed(name, tmp_path):
    check, change = (plain_notices, PLAIN[name]) if name in PLAIN else (kernels_notice, KERNELS[name])
    if name in KERNELS:
        _needs_the_interpreter()
    pack = mutant(tmp_path, f"fused_{[*PLAIN, *KERNELS].index(name)}", *change)
    try:
        with pytest.raises(AssertionError):
            check(pack)
    finally:
        forget(pack)


@pytest.mark.parametrize("check", [plain_notices, kernels_notice])
def test_the_unchanged_copy_passes(check, tmp_path):
    if check is kernels_notice:
        _needs_the_interpreter()
    pack = mutant(tmp_path, f"unchanged_{check.__name__}", FUSED, "ROWS_AT_ONCE = 2**13", "ROWS_AT_ONCE = 7")
    try:
        check(pack)
    finally:
        forget(pack)


def _needs_the_interpreter():
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("this machine has a GPU: the kernels are tested on it, in test_gpu.py")
