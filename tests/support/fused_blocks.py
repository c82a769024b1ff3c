"""Fused blocks in their plain operations, for the tests of what they compute."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.transformer import network as module
from comfyui_sana_video.sana_video_core.transformer import ops, runner
from comfyui_sana_video.sana_video_core.transformer.fused_block import fused_block
from support.pack import Pack

PACK = Pack()


@pytest.fixture(name="fused")
def fused_fixture(monkeypatch):
    """Fused blocks in their plain operations; counts them."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return fused_block(*args, **kwargs)

    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(True, ""))
    monkeypatch.setattr(runner, "fused_block", counted)
    return calls


def plain(monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *args: ops.Choice(False, "asked"))


def inputs(batch=2, frames=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 16, frames, 4, 6, generator=generator)
    return x, torch.randn(batch, 5, 24, generator=generator)


def text_for(network, batch=2):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 5, network.config.caption_channels, generator=generator)
