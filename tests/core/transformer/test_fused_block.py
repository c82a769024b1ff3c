"""The block in fused operations computes what the block in layers.py computes: golden streams, and its own
laws.
"""

import pytest
import torch
from comfyui_sana_video.kernels import dispatch
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.transformer import network as module
from comfyui_sana_video.sana_video_core.transformer import ops, runner
from comfyui_sana_video.sana_video_core.transformer.fused_block import fused_block
from support import checks_model
from support.fused_blocks import PACK, fused_fixture, inputs  # noqa: F401
from support.pack import assert_close
from torch.utils._pytree import tree_leaves


@pytest.mark.parametrize(
    "check", ["one_chunk", "stream_whole_past", "stream_window", "few_step_loop", "block_causal_whole"]
)
@torch.no_grad()
def test_golden(fused, check):
    getattr(checks_model, check)(PACK)
    assert fused


@torch.no_grad()
def test_one_timestep_for_each_latent_frame(fused, monkeypatch):
    tiny = PACK.tiny_model()
    x, text = inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([[0, 889, 889], [0, 337, 100]])
    output = tiny(x, t, text)
    assert len(fused) == tiny.config.depth
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))
    assert_close(output, tiny(x, t, text), 1e-5)
    assert len(fused) == tiny.config.depth


@torch.no_grad()
def test_long_clips_go_through_the_widest_part_in_pieces(fused, monkeypatch):
    from comfyui_sana_video.sana_video_core.transformer import fused_block as fused_module

    tiny = PACK.tiny_model()
    x, _ = inputs(frames=5)
    text = torch.randn(2, 5, tiny.config.caption_channels)
    whole = tiny(x, torch.full((2,), 500), text)
    monkeypatch.setattr(fused_module, "ROWS_AT_ONCE", 1)
    assert_close(tiny(x, torch.full((2,), 500), text), whole, 1e-6)


@pytest.mark.parametrize("part", ["", "blocks.0.attn", "blocks.1.cross_attn"], ids=str)
def test_training_takes_the_plain_block(fused, part):
    """The fused operations have no gradients; also when only a part learns."""
    tiny = PACK.tiny_model().requires_grad_(False)
    x, _ = inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels)
    tiny.get_submodule(part).requires_grad_(True)
    tiny(x, torch.full((2,), 500), text).sum().backward()
    assert not fused
    assert all(p.grad is not None for p in tiny.get_submodule(part).parameters())


@torch.no_grad()
def test_torch_compile_takes_the_plain_block(fused, monkeypatch):
    """And asks for no choice: a compiler would trace what is cached, the trial on the device with it."""
    tiny = PACK.tiny_model()
    monkeypatch.setattr(module, "choose", None)
    x, _ = inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels)
    torch.compile(tiny, backend="eager")(x, torch.full((2,), 500), text)
    assert not fused


SMALL = {
    "tokens": ("x_embedder", "attn.proj", "mlp.point_conv"),
    "q and k": ("attn.qkv",),
    "the denominator": ("attn.q_norm", "attn.k_norm"),
    "q of the cross-attention": ("q_linear",),
    "nothing": (),
}


@torch.no_grad()
@pytest.mark.parametrize("scale", [1e-3, 1e-5])
@pytest.mark.parametrize("where", SMALL)
def test_every_epsilon_is_the_plain_blocks(fused, monkeypatch, where, scale):
    """Each in a place where numbers are so small that it counts."""
    tiny = PACK.tiny_model()
    x, _ = inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    for name, parameter in tiny.named_parameters():
        if any(layer in name for layer in SMALL[where]):
            part = parameter[: 2 * tiny.config.width] if "qkv" in name else parameter  # values stay large
            part.mul_(scale)
    if where == "tokens":
        tiny.final_layer.linear.weight.div_(scale)
    output = tiny(x, torch.full((2,), 500), text)
    assert fused
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))
    truth = tiny(x, torch.full((2,), 500), text)
    assert (output - truth).norm() / truth.norm() < 1e-5


@torch.no_grad()
def test_a_network_of_one_block_through_the_interpreter(fused, monkeypatch):
    """Every operation is the Triton version, with batches, per-frame timesteps, a memory and one text for
    all.
    """
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("this machine has a GPU: test_gpu.py does this on it")
    tiny, (x, _) = PACK.tiny_model(depth=1), inputs(frames=2)  # the interpreter takes seconds for a block
    text = torch.randn(1, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([[0, 889], [0, 337]])
    outputs = {}
    for interpreted in (True, False):
        monkeypatch.setattr(dispatch, "INTERPRETED", interpreted)
        memory = tiny.absorb(x, text)
        outputs[interpreted] = tiny(x, t, text, memory=memory, first_frame=3)
    assert (outputs[True] - outputs[False]).norm() / outputs[False].norm() < 1e-5
    assert not torch.equal(outputs[True], outputs[False]), "the plain versions ran twice"


@torch.no_grad()
def test_a_block_writes_to_nothing_that_it_was_given(monkeypatch):
    tiny, (x, _), checked = PACK.tiny_model(), inputs(), []
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))

    def watched(*args, **kwargs):
        tensors = [part for part in tree_leaves(args) if isinstance(part, torch.Tensor)]
        before = [part.clone() for part in tensors]
        out = fused_block(*args, **kwargs)
        checked.extend(map(torch.equal, tensors, before))
        return out

    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(True, ""))
    monkeypatch.setattr(runner, "fused_block", watched)
    weights = {name: part.clone() for name, part in tiny.named_parameters()}
    memory = tiny.absorb(x, text)
    tiny(x, torch.tensor([[0, 889, 889], [0, 337, 100]]), text, memory=memory, first_frame=3)
    assert len(checked) > 10 * tiny.config.depth
    assert all(checked)
    assert all(torch.equal(part, weights[name]) for name, part in tiny.named_parameters())


def test_an_unknown_name_is_refused():
    tiny = PACK.tiny_model()
    tiny.kernels = "fast"
    with pytest.raises(InputError, match="“fast” is no choice of kernels"), torch.no_grad():
        tiny(inputs()[0], torch.full((2,), 500), torch.randn(2, 5, tiny.config.caption_channels))
