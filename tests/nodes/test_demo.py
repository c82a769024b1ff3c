"""What “demo (built in)” gives an artist: the trained set, which reads prompts as they are."""

import logging

import pytest
from artist import DEMO, run
from comfyui_sana_video.bridge import text_encoders
from comfyui_sana_video.sana_video_core import text
from comfyui_sana_video.sana_video_core.config import DEMO as FAMILY
from comfyui_sana_video.sana_video_core.text import prompt_digest
from pack import same


def test_the_trained_models_make_a_chunk():
    model = run("ModelLoader", DEMO, "auto")
    assert model.model.diffusion_model.config == FAMILY.config
    assert model.model.diffusion_model.family is FAMILY
    words = run("TextEncode", run("TextEncoderLoader", DEMO), "a red ball moves right", 0, True)
    state = run("Start", model, 64, 48, 1)
    latent, state, frames = run("BlockSampler", model, words, state, 1, 3, 1, "few_step", "recache")
    assert (frames, state.state.frames) == (41, 41)
    images = run("Decode", run("VAELoader", DEMO), latent, state)
    assert images.shape == (41, 48, 64, 3)
    assert images.isfinite().all()


@pytest.mark.parametrize("found", [None, "Make it good: "], ids=["none was found", "one was found"])
def test_the_instruction_changes_nothing(monkeypatch, caplog, found):
    """Neither the embeddings nor the digest that a stream knows a prompt by; and nobody is warned that none was found."""
    text._warn_no_instruction.cache_clear()
    for module in (text, text_encoders):
        monkeypatch.setattr(module, "find_instruction", lambda **_: found)
    encoder = run("TextEncoderLoader", DEMO)
    with caplog.at_level(logging.WARNING):
        on, off = (run("TextEncode", encoder, "a ball", 10, instruction)[0] for instruction in (True, False))
    assert not caplog.records
    assert same(on[0], off[0])
    assert same(on[1]["attention_mask"], off[1]["attention_mask"])
    plain = prompt_digest("a ball", instruction=None, motion_score=10)
    assert on[1]["sana_digest"] == off[1]["sana_digest"] == plain
