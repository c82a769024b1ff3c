"""Checks inside ComfyUI's process: models loaded as with dynamic VRAM, ComfyUI's default on NVIDIA cards.

Its layers have no weights then until a file's are put in their place. Moving weights needs a GPU.
"""

from __future__ import annotations

from unittest.mock import patch

from checks_inside import DEMO, check, pack, run, same


def _loaded_lazily(call):
    import comfy.memory_management

    with patch.object(comfy.memory_management, "aimdo_enabled", True):
        return call()


@check
def a_transformer_without_weights_at_first_samples_the_same(demo):
    for family, sampled in (("auto", None), ("sana_video_480p", demo.ksample())):
        lazy = _loaded_lazily(lambda family=family: run("SanaVideoModelLoader", DEMO, family))
        if sampled is None:
            for mine, usual in zip(demo.sample(lazy)[1].tensors, demo.sample()[1].tensors, strict=True):
                assert same(mine, usual)
        else:
            assert same(demo.ksample(lazy), sampled)


@check
def a_vae_and_a_text_encoder_without_weights_at_first_are_the_same(demo):
    state = demo.sample()[1]
    vae = _loaded_lazily(lambda: run("SanaVideoVAELoader", DEMO))
    decoded = [run("SanaVideoDecode", each, {"samples": _clean(state)}) for each in (vae, demo.vae)]
    assert same(*decoded)
    encoder = _loaded_lazily(lambda: run("SanaVideoTextEncoderLoader", DEMO))
    mine = run("SanaVideoTextEncode", encoder, "a red ball rolls", 10, True)
    assert same(mine[0][0], demo.positive[0][0])


def _clean(state):
    statistics, config = pack("sana_video_core.vae.statistics"), pack("sana_video_core.config")
    return statistics.to_vae_space(state.state.history[0].latents, config.DEMO.vae)
