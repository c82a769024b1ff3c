"""Clips of the bidirectional families: guidance, image-to-video, interrupts."""

import pytest
import torch
from support.pack import Pack, assert_close, same

PACK = Pack()
one_shot, errors, callbacks, shapes = (
    PACK.core(name) for name in ("sampling.one_shot", "errors", "callbacks", "shapes")
)
GRID = shapes.LatentGrid(4, 6)


@pytest.fixture(scope="module")
def model():
    return PACK.tiny_model(family="sana_video_480p")


def _text(model, seed, tokens=5, rows=1):
    text = torch.randn(rows, tokens, 24, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(tokens)[None].expand(rows, -1) < tokens - 1
    return model.prepare_text(text, mask)


def _sample(model, *, negative=None, frames=3, **options):
    chosen = {name: options.pop(name) for name in tuple(options) if name in one_shot.ClipSampling.__slots__}
    sampling = one_shot.ClipSampling(**{"steps": 3, "cfg": 4.0, "seed": 5, **chosen})
    negative = _text(model, 2) if negative is None else negative
    return one_shot.sample_clip(model, _text(model, 1), negative, GRID, frames, sampling, **options)


def test_both_kinds_of_guidance_agree(model):
    for image in (None, torch.ones(1, 16, 1, 4, 6)):
        batched, sequential = (
            _sample(model, guidance=way, image=image, batch=2) for way in one_shot.GUIDANCE
        )
        assert_close(batched, sequential, 1e-4)


def test_guidance_formula(model):
    """One Euler step from sigma 1 to 0: x - (v_uncond + cfg (v_cond - v_uncond)); at cfg 1 cond alone."""
    noise = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cond, uncond = (model(noise, torch.full((1,), 1000.0), _text(model, s)) for s in (1, 2))
    for cfg, velocity in ((4.0, uncond + 4 * (cond - uncond)), (1.0, cond)):
        assert_close(_sample(model, steps=1, cfg=cfg, sampler="euler", noise=noise), noise - velocity, 1e-4)


def test_prompts_of_different_length(model):
    """The shorter one is padded in a batch, and its padding has no effect."""
    short = _text(model, 3, tokens=2)
    batched, sequential = (_sample(model, negative=short, guidance=way) for way in one_shot.GUIDANCE)
    assert_close(batched, sequential, 1e-4)


@pytest.mark.parametrize("sampler", PACK.core("config").CLIP_GRIDS)
def test_frame_0_is_returned_untouched_and_matters(model, sampler):
    image = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(8))
    kept = image.clone()
    out = _sample(model, image=image, sampler=sampler)
    assert same(out[:, :, :1], kept)
    assert same(image, kept)
    assert out.shape == (1, 16, 3, 4, 6)
    other = _sample(model, image=-image, sampler=sampler)
    assert not torch.equal(out[:, :, 1:], other[:, :, 1:])


def test_the_seed_decides(model):
    assert same(_sample(model), _sample(model))
    assert not torch.equal(_sample(model), _sample(model, seed=6))
    both = _sample(model, batch=2)
    assert_close(both[1:], _sample(model, seed=6), 1e-4)


@pytest.mark.parametrize("stop_at", range(3))
def test_interrupt_at_every_step(model, stop_at):
    reports = []
    listener = callbacks.Callbacks(cancelled=lambda: len(reports) == stop_at, progress=reports.append)
    with pytest.raises(errors.Cancelled, match=f"step {stop_at + 1} of 3"):
        _sample(model, callbacks=listener)
    assert [(n.step, n.steps) for n in reports] == [(i + 1, 3) for i in range(stop_at)]


def test_nan_is_refused(model, monkeypatch):
    monkeypatch.setattr(type(model), "forward", lambda self, x, *_: x * float("nan"))
    with pytest.raises(errors.ChunkError, match="step 1 of 3"):
        _sample(model)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sampler": "heun"}, r"dpm\+\+, euler"),
        ({"guidance": "none"}, "batched, sequential"),
        ({"cfg": 0.5}, "at least 1"),
        ({"cfg": float("nan")}, "at least 1"),
        ({"steps": 0}, "1 to 1000"),
        ({"frames": 2000}, "1024"),
        ({"batch": 0}, "at least 1"),
        ({"image": torch.zeros(1, 16, 2, 4, 6)}, "frame 0"),
        ({"image": torch.zeros(1, 16, 1, 4, 4)}, "frame 0"),
        ({"noise": torch.zeros(1, 16, 2, 4, 6)}, "noise"),
        ({"noise": torch.full((1, 16, 3, 4, 6), float("nan"))}, "noise holds NaN or Inf"),
        ({"image": torch.full((1, 16, 1, 4, 6), float("inf"))}, "frame 0 holds NaN or Inf"),
    ],
)
def test_what_cannot_work_is_refused(model, options, words):
    with pytest.raises(errors.InputError, match=words):
        _sample(model, **options)


def test_guidance_needs_a_negative(model):
    with pytest.raises(errors.InputError, match="negative prompt"):
        one_shot.sample_clip(model, _text(model, 1), None, GRID, 3, one_shot.ClipSampling(cfg=2.0))
