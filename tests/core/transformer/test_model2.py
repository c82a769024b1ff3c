"""SANA-Video 2.0 against what the original computed (tests/data/sana2)."""

import pytest
import torch
from support.checks_sana2 import CHECKS
from support.pack import Pack, assert_close
from support.sana2 import golden2, model2

PACK = Pack()
InputError = PACK.core("errors").InputError


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_parity(check):
    check(PACK)


@torch.no_grad()
def test_bf16():
    """The original's own bf16 run is 0.042 off."""
    g = golden2("forward")
    model = model2(PACK).to(torch.bfloat16)
    out = model(g["in_x"], g["in_t"], g["in_y"][:, 0], g["in_mask"])
    assert ((out - g["out"]).norm() / g["out"].norm()).item() <= 0.05


@torch.no_grad()
def test_prepared_text_serves_a_batch():
    g, model = golden2("forward"), model2(PACK)
    text = g["in_y"][:1, 0], g["in_mask"][:1]
    both = model(g["in_x"], g["in_t"], model.prepare_text(*text))
    assert_close(both[1:], model(g["in_x"][1:], g["in_t"][1:], *text), 1e-4)


def test_refusals():
    g, model = golden2("forward"), model2(PACK)
    x, t, y = g["in_x"], g["in_t"], g["in_y"][:, 0]
    for latents, times, words in (
        (x[:, :5], t, "this model takes"),
        (x, torch.zeros(2, 3), "one per token"),
        (x, torch.zeros(3), "one per token"),
    ):
        with pytest.raises(InputError, match=words):
            model(latents, times, y)
    with pytest.raises(InputError, match="bfloat16 or float32"):
        model.to(torch.float16)(x, t, y)


def test_four_steps_take_no_guidance_and_no_picture():
    model, one_shot = model2(PACK), PACK.core("sampling.one_shot")
    g, grid = golden2("sampler_4step"), PACK.core("shapes").LatentGrid(3, 5)
    text = model.prepare_text(g["in_y"][:1, 0])
    with pytest.raises(InputError, match="Set cfg to 1"):
        one_shot.ClipSampling(steps=4, sampler="few_step", cfg=8)
    few = one_shot.ClipSampling(steps=4, sampler="few_step", shift=6, cfg=1)
    with pytest.raises(InputError, match="negative prompt has no effect"):
        one_shot.sample_clip(model, text, text, grid, 4, few)
    with pytest.raises(InputError, match="from text alone"):
        one_shot.sample_clip(model, text, None, grid, 4, few, image=torch.zeros(1, 6, 1, 3, 5))


def test_each_step_draws_noise_of_its_own():
    """By seed, latent frame and step; the seed's first noise is that of every other sampler."""
    model, one_shot, seen = model2(PACK), PACK.core("sampling.one_shot"), []
    text, grid = model.prepare_text(golden2("sampler_4step")["in_y"][:1, 0]), (3, 5)

    class Still:
        family, config, device = model.family, model.config, model.device

        def __call__(self, x, t, text):
            seen.append(x)
            return torch.zeros_like(x)

    few = one_shot.ClipSampling(seed=7, steps=4, sampler="few_step", shift=6, cfg=1)
    one_shot.sample_clip(Still(), text, None, PACK.core("shapes").LatentGrid(*grid), 2, few)
    draw, (_, *levels, _) = PACK.core("sampling.noise").draw_noise, few.sigmas
    size = {"batch": 1, "channels": 6, "grid": PACK.core("shapes").LatentGrid(*grid)}
    clean = draw(7, 0, 2, 0, **size)
    assert torch.equal(seen[0], clean)
    for number, sigma in enumerate(levels, start=1):
        assert_close(seen[number], sigma * draw(7, 0, 2, number, **size) + (1 - sigma) * clean, 1e-6)
        clean = seen[number]


def test_a_stream_is_refused():
    with pytest.raises(InputError, match="softmax layers see all frames"):
        PACK.core("streaming.stream").start(model2(PACK), height=736, width=1280)
