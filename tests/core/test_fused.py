"""The block in fused operations computes what the block in layers.py computes: golden streams, and its own laws."""

import checks_model
import pytest
import torch
from comfyui_sana_video.sana_video_core import model as module
from comfyui_sana_video.sana_video_core import ops
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.sana_video_core.fused import fused_block, own_weights
from pack import Pack, assert_close

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


def test_training_takes_the_plain_block(fused):
    """The fused operations have no gradients."""
    tiny = PACK.tiny_model()
    x, _ = _inputs()
    text = torch.randn(2, 5, tiny.config.caption_channels)
    tiny.requires_grad_(True)
    tiny(x, torch.full((2,), 500), text).sum().backward()
    assert not fused
    assert all(p.grad is not None for name, p in tiny.named_parameters() if "blocks.0.attn" in name)


@torch.no_grad()
def test_weights_are_asked_of_the_host(fused):
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
    assert set(asked) == {"RMSNorm", "Conv2d"}


def test_an_unknown_name_is_refused():
    tiny = PACK.tiny_model()
    tiny.kernels = "fast"
    with pytest.raises(InputError, match="“fast” is no choice of kernels"), torch.no_grad():
        tiny(_inputs()[0], torch.full((2,), 500), torch.randn(2, 5, tiny.config.caption_channels))
