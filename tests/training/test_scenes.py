"""Stories: from a seed alone, as their sentences say, and smooth where a sentence changes."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.config import DEMO
from comfyui_sana_video.training import scenes
from comfyui_sana_video.training.drawing import draw, draw_pieces
from comfyui_sana_video.training.models import fresh_encoder
from comfyui_sana_video.training.scenes import (
    MOTIONS,
    STRAIGHT,
    Shot,
    Story,
    Track,
    frames_of,
    random_story,
    track,
)

CHUNKS = 4


@pytest.fixture(scope="module")
def stories():
    return [random_story(seed, CHUNKS, changes=1.0) for seed in range(60)]


def steps(path, walls=1.0):
    """Ways [B, T - 1, 2] from frame to frame, the short way round."""
    return torch.remainder(path.centre.diff(dim=1) + walls / 2, walls) - walls / 2


def alone(motion, count=12):
    return [Story(seed, (Shot("red", "square", motion, "blue"),)) for seed in range(count)]


def test_a_seed_is_a_story():
    assert [random_story(s, 5) for s in range(20)] == [random_story(s, 5) for s in range(20)]
    assert len({random_story(s, 5).shots[0].sentence for s in range(20)}) > 15
    first, again = (track([random_story(3, CHUNKS)], CHUNKS) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_story_does_not_depend_on_its_neighbours(stories):
    together, single = track(stories[:5], CHUNKS), track(stories[2:3], CHUNKS)
    assert torch.equal(together.centre[2:3], single.centre)
    assert torch.equal(together.colour[2:3], single.colour)


def test_sentences_that_are_held_out_are_never_trained_on():
    trained = {shot for seed in range(300) for shot in random_story(seed, CHUNKS).shots}
    asked = {shot for seed in range(100) for shot in random_story(seed, CHUNKS, held_out=True).shots}
    assert not any(shot.held_out for shot in trained)
    assert all(shot.held_out for shot in asked)
    assert not {shot.sentence for shot in trained} & {shot.sentence for shot in asked}


def test_chunks_are_those_of_a_stream():
    rule = DEMO.chunks
    for chunks in (1, 2, 24):
        latent_frames = sum(rule.following(0, chunks))
        assert frames_of(chunks) == DEMO.compression.frames(latent_frames)
    assert scenes.border_frames(3) == [41, 81]


@pytest.mark.parametrize("motion", list(STRAIGHT))
def test_straight_movers_keep_their_velocity(motion):
    way = steps(track(alone(motion), 24))
    assert (way - way[:, :1]).abs().max() < 1e-9
    direction = torch.tensor(STRAIGHT[motion], dtype=torch.float64)
    assert ((way * direction).sum(2) > scenes.SPEEDS[0] * 0.99).all()


def test_bouncers_stay_inside_and_the_others_do_what_they_say():
    path = track(alone("bounce"), 12)
    assert (path.centre - path.radius[:, :, None] > -0.02).all()
    assert (path.centre + path.radius[:, :, None] < 1.02).all()
    assert (steps(path).abs() > 1e-3).all()
    assert (track(alone("stop"), 3).centre.diff(dim=1) == 0).all()
    assert (track(alone("grow"), 1).radius.diff(dim=1) > 0).all()
    assert (track(alone("shrink"), 1).radius.diff(dim=1) <= 0).all()
    assert (track(alone("spin"), 3).angle.diff(dim=1) > 0.1).all()
    circle = track(alone("circle"), 3).centre
    # after a whole turn (72 frames) it is where it was
    assert (circle[:, 72:] - circle[:, :-72]).abs().max() < 1e-6


def test_nothing_jumps_where_a_sentence_changes(stories):
    path = track(stories, CHUNKS)
    assert steps(path).abs().max() < 0.03
    assert path.radius.diff(dim=1).abs().max() <= scenes.GROWTH * 1.001
    assert path.colour.diff(dim=1).abs().max() <= 1 / scenes.TURNING + 1e-9
    # and what the last sentence asks for has come about
    goals = torch.tensor([scenes.COLOURS[s.shots[-1].final_colour] for s in stories], dtype=torch.float64)
    settled = [s.begins[-1] < CHUNKS - 1 for s in stories]
    assert torch.allclose(path.colour[settled, -1], goals[settled])


def test_every_word_is_one_token():
    encoder = fresh_encoder()
    for motion in MOTIONS:
        for colour in scenes.COLOURS:
            sentence = Shot(colour, "triangle", motion, "brown", turns="white").sentence
            words = encoder.tokenizer(f" {sentence}", add_special_tokens=False)["input_ids"]
            assert len(words) == len(sentence.split()), sentence


def test_pictures():
    path = track([random_story(seed, 1) for seed in range(6)], 1)
    frames = draw(path, 32, 32)
    assert frames.shape == (6, 3, 41, 32, 32)
    assert frames.abs().max() <= 1
    pieces = torch.cat(list(draw_pieces(path, 32, 32, 16, "cpu")), dim=2)
    assert torch.equal(pieces, frames)


def test_the_picture_is_a_torus():
    path = track(alone("right", 1), 1)
    moved = Track(path.centre + torch.tensor([0.5, 0.25]), *path[1:])
    here, there = draw(path, 32, 32), draw(moved, 32, 32)
    # the floor has a gradient, so only sideways moves can be compared
    sideways = draw(Track(path.centre + torch.tensor([0.5, 0.0]), *path[1:]), 32, 32)
    assert torch.allclose(here.roll(16, dims=4), sideways, atol=1e-4)
    assert not torch.allclose(here.roll(16, dims=4), there, atol=1e-2)


def test_wide_pictures_are_not_stretched():
    path = track(alone("stop", 1), 1, aspect=2.0)
    assert (path.centre[..., 0] > 0.3).all()
    frames = draw(path, 32, 64)
    red = (frames[0, 0, 0] > 0.2) & (frames[0, 2, 0] < 0)
    height, width = red.any(1).sum(), red.any(0).sum()
    assert abs(int(height) - int(width)) <= 2
