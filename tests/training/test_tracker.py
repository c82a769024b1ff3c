"""The tracker against the truth: what was drawn is found, blurred and noisy frames included."""

import pytest
import torch
import torch.nn.functional as F
from comfyui_sana_video.training import scenes, tracker
from comfyui_sana_video.training.drawing import _floor, draw

SIDE, EACH = 128, 6  # pixels; one frame in so many is looked at
STORIES = [scenes.random_story(seed, 3) for seed in range(10_000, 10_044)]


@pytest.fixture(scope="module")
def truth():
    path = scenes.track(STORIES, 3)
    return scenes.Track(*(tensor[:, ::EACH] for tensor in path[:5]), path.shape)


def blurred(frames):
    """As a small VAE gives frames back: 3 x 3 box, noise of 0.03."""
    generator = torch.Generator().manual_seed(0)
    box = F.avg_pool3d(frames, (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)
    return box + 0.03 * torch.randn(box.shape, generator=generator)


@pytest.fixture(scope="module", params=["drawn", "blurred"])
def detections(request, truth):
    frames = draw(truth, SIDE, SIDE)
    return tracker.find(blurred(frames) if request.param == "blurred" else frames)


def test_a_shape_is_seen_in_every_frame(detections):
    assert detections.there.float().mean() > 0.999


def test_the_centre_is_found(detections, truth):
    off = tracker.short_way(detections.centre - truth.centre * SIDE, SIDE)[detections.there].norm(dim=-1)
    assert off.quantile(0.5) < 0.7
    assert off.quantile(0.95) < 1.5


def test_a_shape_on_the_border_is_found(detections, truth):
    """On two sides of the picture at once, or in all four corners."""
    outside = (truth.centre - 0.5).abs().amax(-1) > 0.4
    seen = outside & detections.there
    off = tracker.short_way(detections.centre - truth.centre * SIDE, SIDE)[seen].norm(dim=-1)
    assert len(off) > 50
    assert off.quantile(0.95) < 1.5


def test_the_area_is_found(detections, truth):
    drawn = tracker.unit_areas()[truth.shape][:, None] * (truth.radius * SIDE) ** 2
    ratio = (detections.area / drawn)[detections.there].float()
    assert ratio.quantile(0.01) > 0.9
    assert ratio.quantile(0.99) < 1.1


def test_the_colour_is_right(detections, truth):
    known = torch.tensor(list(scenes.COLOURS.values()), dtype=torch.float64)
    away = torch.cdist(truth.colour, known)
    settled = away.amin(-1) < 1e-6  # not on the way from one to the other
    assert (detections.colour == away.argmin(-1))[settled].float().mean() >= 0.99


def test_the_shape_is_right(detections, truth):
    assert (detections.voted_shape == truth.shape).float().mean() >= 0.97
    assert (detections.shape == truth.shape[:, None]).float().mean() >= 0.97


def test_the_angle_is_right(detections, truth):
    for index, name in enumerate(scenes.SHAPES):
        if name in scenes.ROUND:
            continue
        mine = truth.shape == index
        angles = detections.angles[mine, :, index].double()
        off = tracker.short_way(angles - truth.angle[mine], tracker.period(name)).abs()
        assert off.nanquantile(0.95) < 0.05


def test_where_there_is_no_shape_none_is_found(truth):
    generator = torch.Generator().manual_seed(0)
    floors = 2 * _floor(truth.floor[:, 0].float(), SIDE, SIDE) - 1
    noise = torch.randn(8, 3, SIDE, SIDE, generator=generator)
    clouds = F.interpolate(torch.randn(32, 3, 8, 8, generator=generator), size=SIDE, mode="bicubic").clamp(
        -1, 1
    )
    one_colour = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None].expand(-1, 3, SIDE, SIDE)
    noisy = floors + 0.03 * torch.randn(floors.shape, generator=generator)
    for frames in (floors, noisy, noise, clouds, one_colour):
        detections = tracker.find(frames)
        assert not detections.there.any()
        assert detections.centre.isnan().all()
        assert (detections.colour == -1).all()
        assert (detections.shape == -1).all()
        assert (detections.voted_shape == -1).all()


def test_two_shapes_are_not_one():
    pictures = draw(scenes.track(STORIES[:1], 1), SIDE, SIDE)[:, :, :8]
    both = torch.maximum(pictures, pictures.roll((64, 64), dims=(3, 4)))
    assert not tracker.find(both).there.any()


def test_a_clip_alone_and_pieces_are_the_same(truth):
    frames = draw(scenes.Track(*(t[:2] for t in truth[:5]), truth.shape[:2]), SIDE, SIDE)
    whole = tracker.find(frames)
    alone = tracker.find(frames[1].transpose(0, 1))
    pieces = tracker.join([tracker.find(piece) for piece in frames.split(7, dim=2)], dim=1)
    for a, b, c in zip(whole[:6], alone[:6], pieces[:6], strict=True):
        torch.testing.assert_close(a[1], b[0], equal_nan=True)
        torch.testing.assert_close(a, c, equal_nan=True, rtol=1e-4, atol=1e-3)
    assert whole.of(1).between(3, 5).centre.shape == (2, 2)
    torch.testing.assert_close(whole.between(3, 5).of(1).centre, whole.centre[1, 3:5])


def test_a_wide_picture():
    path = scenes.track(STORIES[:4], 1, aspect=1.75)
    detections = tracker.find(draw(path, SIDE, 224)[:, :, ::8])
    off = detections.centre - path.centre[:, ::8] * SIDE
    off = tracker.short_way(off, torch.tensor([224.0, SIDE]))
    assert detections.there.all()
    assert off.norm(dim=-1).max() < 1.5
