"""The block in fused operations computes what the block in layers.py computes: golden streams, and its own laws."""

import checks_model
import pytest
import torch
from comfyui_sana_video.kernels import dispatch
from comfyui_sana_video.sana_video_core import model as module
from comfyui_sana_video.sana_video_core import ops
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.fused import fused_block
from comfyui_sana_video.sana_video_core.products import own_weights
from pack import Pack, assert_close
from torch.utils._pytree import tree_leaves

PACK = Pack()


@pytest.fixture
def fused(monkeypatch):
    """Fused blocks in their plain operations; counts them."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return fused_block(*args, **kwargs)

    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(True, ""))
    monkeypatch.setattr(module, "fused_block", counted)
    return calls


@pytest.mark.parametrize(
    "check", ["one_chunk", "stream_whole_past", "stream_window", "few_step_loop", "block_causal_whole"]
)
@torch.no_grad()
def test_golden(fused, check):
    getattr(checks_model, check)(PACK)
    assert fused


def _inputs(batch=2, frames=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 16, frames, 4, 6, generator=generator)
    return x, torch.randn(batch, 5, 24, generator=generator)


@torch.no_grad()
def test_one_timestep_for_each_latent_frame(fused, monkeypatch):
    tiny = PACK.tiny_model()
    x, text = _inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([[0, 889, 889], [0, 337, 100]])
    found = tiny(x, t, text)
    assert len(fused) == tiny.config.depth
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(False, "asked"))
    assert_close(found, tiny(x, t, text), 1e-5)
    assert len(fused) == tiny.config.depth


@torch.no_grad()
def test_long_clips_go_through_the_widest_part_in_pieces(fused, monkeypatch):
    from comfyui_sana_video.sana_video_core import fused as fused_module

    tiny = PACK.tiny_model()
    x, _ = _inputs(frames=5)
    text = torch.randn(2, 5, tiny.config.caption_channels)
    whole = tiny(x, torch.full((2,), 500), text)
    monkeypatch.setattr(fused_module, "ROWS_AT_ONCE", 1)
    assert_close(tiny(x, torch.full((2,), 500), text), whole, 1e-6)


@pytest.mark.parametrize("part", ["", "blocks.0.attn", "blocks.1.cross_attn"], ids=str)
def test_training_takes_the_plain_block(fused, part):
    """The fused operations have no gradients; also when only a part learns."""
    tiny = PACK.tiny_model().requires_grad_(False)
    x, _ = _inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels)
    tiny.get_submodule(part).requires_grad_(True)
    tiny(x, torch.full((2,), 500), text).sum().backward()
    assert not fused
    assert all(p.grad is not None for p in tiny.get_submodule(part).parameters())


@torch.no_grad()
def test_torch_compile_takes_the_plain_block(fused, monkeypatch):
    """And asks for no choice: a compiler would read through what is cached, the trial on the device with it."""
    tiny = PACK.tiny_model()
    monkeypatch.setattr(module, "choose", None)
    x, _ = _inputs()
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
    x, _ = _inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    for name, parameter in tiny.named_parameters():
        if any(layer in name for layer in SMALL[where]):
            part = parameter[: 2 * tiny.config.width] if "qkv" in name else parameter  # values stay large
            part.mul_(scale)
    if where == "tokens":
        tiny.final_layer.linear.weight.div_(scale)
    found = tiny(x, torch.full((2,), 500), text)
    assert fused
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(False, "asked"))
    truth = tiny(x, torch.full((2,), 500), text)
    assert (found - truth).norm() / truth.norm() < 1e-5


@torch.no_grad()
def test_the_whole_network_through_the_interpreter(fused, monkeypatch):
    """Every operation is the Triton version, with batches, per-frame timesteps, a memory and one text for all."""
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("this machine has a GPU: test_gpu.py does this on it")
    tiny, (x, _) = PACK.tiny_model(), _inputs()
    text = torch.randn(1, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([[0, 889, 889], [0, 337, 100]])
    found = {}
    for interpreted in (True, False):
        monkeypatch.setattr(dispatch, "INTERPRETED", interpreted)
        memory = tiny.absorb(x, text)
        found[interpreted] = tiny(x, t, text, memory=memory, first_frame=3)
    assert (found[True] - found[False]).norm() / found[False].norm() < 1e-5
    assert not torch.equal(found[True], found[False]), "the plain versions ran twice"


@torch.no_grad()
def test_weights_are_asked_of_the_host(fused, monkeypatch):
    """A host may hold other weights than those that a layer has in its attribute."""
    tiny = PACK.tiny_model()
    x, _ = _inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels)
    asked = []

    def hand_out(layer, like):
        asked.append(type(layer).__name__)
        return own_weights(layer, like)

    tiny.weights_of = hand_out
    tiny(x, torch.full((2,), 500), text)
    assert set(asked) == {"RMSNorm", "Conv2d", "Conv3d", "Linear"}
    assert asked.count("Linear") == 2 * tiny.config.depth, "two projections are more than their layers"
    asked.clear()
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(True, "", fp8=True))
    tiny.bfloat16()(x, torch.full((2,), 500), text)
    assert set(asked) == {"RMSNorm", "Conv2d", "Conv3d", "Linear"}
    assert asked.count("Linear") == 4 * tiny.config.depth


@torch.no_grad()
def test_a_block_writes_to_nothing_that_it_was_given(monkeypatch):
    tiny, (x, _), checked = PACK.tiny_model(), _inputs(), []
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))

    def watched(*given, **named):
        tensors = [part for part in tree_leaves(given) if isinstance(part, torch.Tensor)]
        before = [part.clone() for part in tensors]
        out = fused_block(*given, **named)
        checked.extend(map(torch.equal, tensors, before))
        return out

    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(True, ""))
    monkeypatch.setattr(module, "fused_block", watched)
    weights = {name: part.clone() for name, part in tiny.named_parameters()}
    memory = tiny.absorb(x, text)
    tiny(x, torch.tensor([[0, 889, 889], [0, 337, 100]]), text, memory=memory, first_frame=3)
    assert len(checked) > 10 * tiny.config.depth
    assert all(checked)
    assert all(torch.equal(part, weights[name]) for name, part in tiny.named_parameters())


class Doubled(torch.nn.Linear):
    """A layer that is more than its weight, as a quantised one."""

    def forward(self, x):
        return 2 * super().forward(x)


def _doubled(layer):
    twice = Doubled(layer.in_features, layer.out_features, bias=layer.bias is not None)
    twice.load_state_dict(layer.state_dict())
    return twice


def _hooked(layer):
    layer.register_forward_hook(lambda layer, given, out: 2 * out)
    return layer


def _hooked_before(layer):
    layer.register_forward_pre_hook(lambda layer, given: (2 * given[0],))
    return layer


@torch.no_grad()
@pytest.mark.parametrize("way", [_doubled, _hooked, _hooked_before])
def test_layers_that_are_more_than_their_weight_run_as_they_are(fused, monkeypatch, way):
    tiny, (x, _) = PACK.tiny_model(), _inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    before = tiny(x, torch.full((2,), 500), text)
    for block in tiny.blocks:
        block.attn.proj, block.cross_attn.proj = way(block.attn.proj), way(block.cross_attn.proj)
    found = tiny(x, torch.full((2,), 500), text)
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(False, "asked"))
    truth = tiny(x, torch.full((2,), 500), text)
    assert_close(found, truth, 1e-5)
    assert (found - before).norm() / before.norm() > 0.01


@torch.no_grad()
def test_projections_without_a_bias(fused, monkeypatch):
    tiny, (x, _) = PACK.tiny_model(), _inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    for block in tiny.blocks:
        block.attn.proj.bias = block.cross_attn.proj.bias = None
    found = tiny(x, torch.full((2,), 500), text)
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(False, "asked"))
    assert_close(found, tiny(x, torch.full((2,), 500), text), 1e-5)


def test_an_unknown_name_is_refused():
    tiny = PACK.tiny_model()
    tiny.kernels = "fast"
    with pytest.raises(InputError, match="“fast” is no choice of kernels"), torch.no_grad():
        tiny(_inputs()[0], torch.full((2,), 500), torch.randn(2, 5, tiny.config.caption_channels))


# ---------------------------------------------------------------- products in 8 bits


@pytest.fixture
def eight_bits(fused, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(True, "", fp8=True))
    return fused


@torch.no_grad()
def test_8_bits_that_lose_nothing_change_nothing(eight_bits, monkeypatch):
    """Every product goes the way of 8 bits, with its rows, bias and neighbours in time: only their rounding is left out."""
    tiny, (x, _), made = PACK.tiny_model(), _inputs(frames=5), []

    def rows(given):
        made.append(given.shape)
        return ops.Fp8Rows(given, torch.ones_like(given[..., :1]))

    def taps(frames):
        return rows(torch.stack([frames[:-2], frames[1:-1], frames[2:]], dim=2).flatten(2).flatten(0, 1))

    def gated_residual_fp8(*given):
        x = ops.gated_residual(*given)
        return x, rows(x)

    def residual_norm_fp8(*given):
        x, h = ops.residual_norm(*given)
        return x, rows(h)

    def product(rows, weight, bias, dtype, out=None):
        return torch.addmm(torch.zeros(1) if bias is None else bias, rows.values, weight.values.T, out=out)

    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    plain = PACK.tiny_model()
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(False, "asked"))
    past = plain.absorb(x, text)
    expected = plain(x, torch.tensor([300, 700]), text, memory=past, first_frame=5)
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(True, "", fp8=True))
    for name, stands_in in (("fp8_rows", rows), ("fp8_taps", taps), ("fp8_product", product)):
        monkeypatch.setattr(ops, name, stands_in)
    for stands_in in (gated_residual_fp8, residual_norm_fp8):
        monkeypatch.setattr(ops, stands_in.__name__, stands_in)
    found = tiny(x, torch.tensor([300, 700]), text, memory=tiny.absorb(x, text), first_frame=5)
    assert_close(found, expected, 1e-5)
    d, hidden = tiny.config.width, tiny.config.ffn_hidden
    weights = [(3 * d, d), (d, d), (d, d), (d, d), (2 * hidden, d), (d, hidden), (d, 3 * d)]
    folded = 1  # the projection behind the sums: once for each of two clips
    assert sum(tuple(shape) in weights for shape in made) == 2 * (7 + folded) * tiny.config.depth


@torch.no_grad()
def test_8_bits_cost_a_few_percent(eight_bits, monkeypatch):
    tiny, (x, _) = PACK.tiny_model(head=112, heads=2), _inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    found = tiny.bfloat16()(x, torch.tensor([300, 700]), text)
    monkeypatch.setattr(module, "choose", lambda *given: ops.Choice(False, "asked"))
    truth = tiny.float()(x, torch.tensor([300, 700]), text)
    assert 0.01 < (found - truth).norm() / truth.norm() < 0.1


def test_the_widths_of_a_model_are_asked_for(monkeypatch):
    monkeypatch.setattr(dispatch, "INTERPRETED", True)
    tiny = PACK.tiny_model()
    tiny.precision = "fp8"
    with pytest.raises(InputError, match=r"fp8 cannot run here: the model is 60 wide"):
        tiny.kernel_choice(torch.device("cpu"), torch.bfloat16)


def test_what_cannot_be_in_8_bits_is_said():
    tiny = PACK.tiny_model()
    tiny.precision = "fp8"
    with pytest.raises(InputError, match=r"fp8 cannot run here: .* computes on cpu"), torch.no_grad():
        tiny(_inputs()[0], torch.full((2,), 500), torch.randn(2, 5, tiny.config.caption_channels))
