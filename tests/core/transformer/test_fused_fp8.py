"""The fused block with its GEMMs in FP8."""

import pytest
import torch
from comfyui_sana_video.kernels import dispatch
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.transformer import network as module
from comfyui_sana_video.sana_video_core.transformer import ops
from support.fused_blocks import PACK, fused_fixture, inputs, text_for  # noqa: F401
from support.pack import assert_close


@pytest.fixture
def fp8_fused(fused, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(True, "", fp8=True))
    return fused


@torch.no_grad()
def test_8_bits_that_lose_nothing_change_nothing(fp8_fused, monkeypatch):
    """Every GEMM goes the way of FP8, with its rows, bias and neighbours in time: only their rounding
    is left out.
    """
    tiny, (x, _), made = PACK.tiny_model(), inputs(frames=5), []

    def rows(values):
        made.append(values.shape)
        return ops.Fp8Rows(values, torch.ones_like(values[..., :1]))

    def taps(frames):
        return rows(torch.stack([frames[:-2], frames[1:-1], frames[2:]], dim=2).flatten(2).flatten(0, 1))

    def gated_residual_fp8(*args):
        x = ops.gated_residual(*args)
        return x, rows(x)

    def residual_norm_fp8(*args):
        x, h = ops.residual_norm(*args)
        return x, rows(h)

    def gemm(rows, weight, bias, dtype, out=None):
        return torch.addmm(torch.zeros(1) if bias is None else bias, rows.values, weight.values.T, out=out)

    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    plain = PACK.tiny_model()
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))
    past = plain.absorb(x, text)
    expected = plain(x, torch.tensor([300, 700]), text, memory=past, first_frame=5)
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(True, "", fp8=True))
    for name, stands_in in (("fp8_rows", rows), ("fp8_taps", taps), ("fp8_gemm", gemm)):
        monkeypatch.setattr(ops, name, stands_in)
    for stands_in in (gated_residual_fp8, residual_norm_fp8):
        monkeypatch.setattr(ops, stands_in.__name__, stands_in)
    output = tiny(x, torch.tensor([300, 700]), text, memory=tiny.absorb(x, text), first_frame=5)
    assert_close(output, expected, 1e-5)
    d, hidden = tiny.config.width, tiny.config.ffn_hidden
    weights = [(3 * d, d), (d, d), (d, d), (d, d), (2 * hidden, d), (d, hidden), (d, 3 * d)]
    folded = 1  # the projection behind the sums: once for each of two clips
    assert sum(tuple(shape) in weights for shape in made) == 2 * (7 + folded) * tiny.config.depth


@torch.no_grad()
def test_8_bits_cost_a_few_percent(fp8_fused, monkeypatch):
    tiny, (x, _) = PACK.tiny_model(head=112, heads=2), inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels, generator=torch.Generator().manual_seed(2))
    output = tiny.bfloat16()(x, torch.tensor([300, 700]), text)
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))
    truth = tiny.float()(x, torch.tensor([300, 700]), text)
    assert 0.01 < (output - truth).norm() / truth.norm() < 0.1


@torch.no_grad()
def test_a_head_without_keys_costs_nothing_in_8_bits(fp8_fused, monkeypatch):
    """All heads share a row's scale: one whose sums are nothing must not make the others small."""
    tiny, (x, _) = PACK.tiny_model(head=112, heads=2), inputs()
    for block in tiny.blocks:
        block.attn.k_norm.weight[:112] = 0
    text = text_for(tiny)
    output = tiny.bfloat16()(x, torch.tensor([300, 700]), text)
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))
    truth = tiny.float()(x, torch.tensor([300, 700]), text)
    assert (output - truth).norm() / truth.norm() < 0.05


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
        tiny(inputs()[0], torch.full((2,), 500), torch.randn(2, 5, tiny.config.caption_channels))
