"""Which version of a block runs is chosen once for a patch set, and again after a layer was patched."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.sampling import one_shot
from comfyui_sana_video.sana_video_core.shapes import LatentGrid
from comfyui_sana_video.sana_video_core.streaming.stream import Sampling, extend
from comfyui_sana_video.sana_video_core.transformer import model as model_module
from comfyui_sana_video.sana_video_core.transformer import network as network_module
from comfyui_sana_video.sana_video_core.transformer import ops
from support.checks_stream import begin, prompt
from support.fused_blocks import PACK, fused_fixture, inputs, text_for  # noqa: F401


@pytest.fixture
def choices(monkeypatch):
    """Counts how often a runner is chosen."""
    calls, choose = [], model_module.choose_runner

    def counted(*args):
        calls.append(args)
        return choose(*args)

    monkeypatch.setattr(model_module, "choose_runner", counted)
    return calls


def test_a_stream_chooses_once_for_all_of_its_passes(fused, choices):
    model = PACK.tiny_model()
    states = list(extend(model, begin(PACK, model), prompt(PACK, "a"), Sampling(steps=2), plan=(2, 2)))
    assert len(states) == 2
    assert len(choices) == 1
    assert len(fused) == 2 * 3 * model.config.depth  # two steps and one absorbing pass for each chunk


@torch.no_grad()
def test_a_layer_patched_later_needs_a_new_choice(fused):
    model, (x, _) = PACK.tiny_model(), inputs()
    text, times = text_for(model), torch.tensor([300, 700])
    prepared = model.prepare_text(text)
    model.blocks[1].attn.register_forward_hook(lambda layer, args, out: (2 * out[0], out[1]))
    fused.clear()
    model(x, times, prepared)
    assert len(fused) == model.config.depth
    fused.clear()
    again = model(x, times, model.prepare_text(text))
    assert len(fused) == model.config.depth - 1
    assert torch.equal(again, model(x, times, text))


@torch.no_grad()
def test_a_host_chooses_around_its_own_sampling(fused, choices):
    model, (x, _) = PACK.tiny_model(), inputs()
    text, times = text_for(model), torch.tensor([300, 700])
    with model.runner_chosen():
        inside = [model(x, times, text) for _ in range(3)]
    assert len(choices) == 1
    assert torch.equal(inside[0], model(x, times, text))
    assert len(choices) == 2, "outside, each call chooses again"
    with pytest.raises(RuntimeError), model.runner_chosen():
        raise RuntimeError
    choices.clear()
    model(x, times, text)
    assert len(choices) == 1, "a sampling that failed leaves no choice behind"


def test_a_prepared_prompt_does_not_carry_kernels_into_training(fused):
    """They have no gradients."""
    model, (x, _) = PACK.tiny_model(), inputs()
    with torch.no_grad():
        prepared = model.prepare_text(text_for(model))
    model.requires_grad_(True)
    fused.clear()
    model(x, torch.tensor([300, 700]), prepared).sum().backward()
    assert not fused
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_a_model_that_learns_prepares_no_runner(choices):
    model, (x, _) = PACK.tiny_model().requires_grad_(True), inputs()
    prepared = model.prepare_text(text_for(model))
    assert not choices
    with torch.no_grad():
        model(x, torch.tensor([300, 700]), prepared)
    assert len(choices) == 1


@torch.no_grad()
def test_another_setting_of_the_model_is_another_choice(fused, monkeypatch):
    """Nobody who sets `kernels` after a prompt was prepared measures or sees the wrong version."""
    model, (x, _) = PACK.tiny_model(), inputs()
    monkeypatch.setattr(network_module, "choose", lambda kernels, *_: ops.Choice(kernels != "reference", ""))
    prepared = model.prepare_text(text_for(model))
    model.kernels = "reference"
    fused.clear()
    model(x, torch.tensor([300, 700]), prepared)
    assert not fused


@torch.no_grad()
def test_blocks_that_a_host_exchanges_run(fused):
    """ComfyUI puts compiled blocks in the places of ours for the time of a call."""
    model, (x, _) = PACK.tiny_model(), inputs()
    prepared, calls = model.prepare_text(text_for(model)), []

    class Exchanged(torch.nn.Module):
        cross_attn = model.blocks[0].cross_attn

        def forward(self, *args):
            calls.append(args)
            return block(*args)

    block = model.blocks[0]
    expected = model(x, torch.tensor([300, 700]), prepared)
    model.blocks[0] = Exchanged()
    assert (model(x, torch.tensor([300, 700]), prepared) - expected).abs().max() < 1e-5
    with model.runner_chosen():
        model.blocks[0] = Exchanged()
        model(x, torch.tensor([300, 700]), text_for(model))
    assert len(calls) == 2


@torch.no_grad()
def test_a_prepared_prompt_does_not_bring_its_model_along(fused):
    first, (x, _) = PACK.tiny_model(seed=1), inputs()
    second, times = PACK.tiny_model(seed=2), torch.tensor([300, 700])
    prepared = first.prepare_text(text_for(first))
    alone = second(x, times, prepared)
    second.prepare_text(text_for(second))
    assert torch.equal(second(x, times, prepared), alone)
    assert not torch.equal(alone, first(x, times, prepared))


def test_guidance_chooses_once_for_all_steps(fused, choices):
    model = PACK.tiny_model(family="sana_video_480p")
    with torch.no_grad():
        texts = [model.prepare_text(text_for(model, 1)) for _ in range(2)]
    choices.clear()
    sampling = one_shot.ClipSampling(steps=3, cfg=4.0)
    one_shot.sample_clip(model, *texts, LatentGrid(4, 6), 2, sampling)
    assert not choices, "preparing the prompts was the choice"
