"""The measures against drawn truth: a story obeys its sentence and no other, and its borders do not show."""

import math
from functools import cache
from itertools import pairwise
from statistics import median

import pytest
import torch
from comfyui_sana_video.training import measures, motions, sampling, scenes, tracker
from comfyui_sana_video.training.drawing import draw

SIDE, CHUNKS = 128, 2
FIRST = 20_000  # number of the first story
BORDER = scenes.FIRST_CHUNK


def seen(stories):
    """What is found in each of the stories, drawn."""
    return [_seen(story) for story in stories]


@cache
def _seen(story):
    return tracker.find(drawn([story])).of(0)


def drawn(stories, chunks=CHUNKS):
    return draw(scenes.track(stories, chunks), SIDE, SIDE)


def stories_of(motion, count):
    """The first stories with this motion from their beginning on."""
    stories = (scenes.random_story(seed, CHUNKS, changes=0) for seed in range(FIRST, FIRST + 1000))
    return [story for story in stories if story.shots[0].motion == motion][:count]


@pytest.fixture(scope="module")
def steady():
    """(story, detections) of three stories of each motion."""
    stories = [story for motion in scenes.MOTIONS for story in stories_of(motion, 3)]
    return list(zip(stories, seen(stories), strict=True))


@pytest.fixture(scope="module")
def changed():
    """(story, detections) of stories that change their sentence at the border."""
    stories = (scenes.random_story(seed, CHUNKS, changes=1) for seed in range(FIRST, FIRST + 1000))
    stories = [story for story in stories if story.begins == (0, 1)][:16]
    return list(zip(stories, seen(stories), strict=True))


def test_every_story_obeys_its_sentence(steady):
    for length in (CHUNKS, 1):
        right = [
            measures.obeyed(story.shots[0], detections, measures.frames_of_shot(story, 0, length)).all
            for story, detections in steady
        ]
        assert sum(right) >= 0.95 * len(right)


def test_no_story_obeys_another_motion(steady):
    wrong = []
    for story, detections in steady:
        path = motions.path_of(detections)
        others = [motion for motion in scenes.MOTIONS if motion != story.shots[0].motion]
        wrong += [motions.moves(path, motion) for motion in others]
    assert sum(wrong) <= 0.05 * len(wrong)


def test_a_changed_sentence_is_obeyed(changed):
    """In the frames after the turn: 32 of them."""
    right = [
        measures.obeyed(story.shots[1], detections, measures.frames_of_shot(story, 1, CHUNKS)).all
        for story, detections in changed
    ]
    assert sum(right) >= 0.95 * len(right)


def test_who_does_not_hear_a_change_does_not_obey_it(steady, changed):
    """A clip that continues as before obeys no changed sentence."""
    for story, detections in steady:
        shot = story.shots[0]
        other = "blue" if shot.colour != "blue" else "red"
        frames = measures.frames_of_shot(story, 0, CHUNKS)
        turned = scenes.Shot(shot.colour, shot.shape, shot.motion, shot.floor, turns=other)
        assert not measures.obeyed(turned, detections, frames).colour
        wrong = scenes.Shot(shot.colour, "ring" if shot.shape != "ring" else "ball", shot.motion, shot.floor)
        assert not measures.obeyed(wrong, detections, frames).shape
    frames = range(BORDER + scenes.TURNING, BORDER + scenes.NEXT_CHUNK)
    wrong = [
        measures.obeyed(story.shots[0], detections, frames).motion
        for story, detections in changed
        if story.shots[0].motion != story.shots[1].motion
    ]
    # a shape that has reached its last size stays as it is, whatever is asked
    assert sum(wrong) <= 0.1 * len(wrong)


@pytest.fixture(scope="module")
def straight():
    stories = [story for motion in scenes.STRAIGHT for story in stories_of(motion, 7)]
    return [(detections, story) for story, detections in zip(stories, seen(stories), strict=True)]


def test_the_border_of_the_truth_has_no_error(straight):
    clear = [detections for detections, _ in straight if measures.clear_of_walls(detections, BORDER)]
    assert len(clear) >= 7
    assert max(measures.border_error(detections, BORDER) for detections in clear) < 0.7
    # on the torus, the walls themselves are no trouble for the truth
    assert median(measures.border_error(detections, BORDER) for detections, _ in straight) < 0.7


def test_a_border_to_another_story_has_an_error(straight):
    errors = []
    for (detections, story), (other, _) in pairwise(straight):
        spliced = tracker.join([detections.between(0, BORDER), other.between(BORDER, 81)], dim=0)
        errors.append(measures.border_error(spliced, BORDER))
        assert measures.sideways(detections, story.shots[0]) < 0.7
    assert median(errors) > 15


def test_walls_are_looked_for_before_the_border_only(straight):
    for (detections, _), (other, _) in pairwise(straight):
        spliced = tracker.join([detections.between(0, BORDER), other.between(BORDER, 81)], dim=0)
        assert measures.clear_of_walls(spliced, BORDER) == measures.clear_of_walls(detections, BORDER)


def test_who_is_clear_touches_no_side(straight):
    """By the drawn truth: no frame near the border has a shape on the picture's rim."""
    for detections, story in straight:
        path = scenes.track([story], CHUNKS)
        near = slice(BORDER - measures.NEAR_WALL, BORDER + measures.NEAR_WALL)
        room = torch.minimum(path.centre, 1 - path.centre)[0, near].amin() - path.radius[0, BORDER]
        outermost = tracker.OUTERMOST[story.shots[0].shape]
        free = room - (outermost - 1) * path.radius[0, BORDER]
        if abs(free) > 1.5 / SIDE:
            assert measures.clear_of_walls(detections, BORDER) == bool(free > 0)


def test_the_seam_shows_only_where_there_is_one():
    stories = [scenes.random_story(seed, CHUNKS, changes=0) for seed in range(FIRST, FIRST + 8)]
    frames = drawn(stories)
    truth = [measures.seam_ratio(clip, BORDER) for clip in frames]
    assert 0.9 < median(truth) < 1.1
    assert max(truth) < 1.4
    for clip, other in zip(frames, frames.roll(1, dims=0), strict=True):
        spliced = torch.cat([clip[:, :BORDER], other[:, BORDER:]], dim=1)
        assert measures.seam_ratio(spliced, BORDER) > 1.4


def test_drift_is_seen():
    clip = drawn(stories_of("left", 1), 3)[0]
    for values in measures.drift(clip):
        assert values == pytest.approx([1, 1, 1], abs=0.02)
    faded = clip.clone()
    faded[:, 81:] = (faded[:, 81:] + 1) * 0.5 - 1  # half as bright, and half as coloured
    for values in measures.drift(faded):
        assert values == pytest.approx([1, 1, 0.5], abs=0.02)


def test_what_is_not_there_is_not_a_number():
    empty = tracker.find(torch.full((1, 3, 81, SIDE, SIDE), -0.5)).of(0)
    story = stories_of("left", 1)[0]
    assert not any(measures.obeyed(story.shots[0], empty, range(81)))
    assert math.isnan(measures.border_error(empty, BORDER))
    assert not measures.clear_of_walls(empty, BORDER)
    assert math.isnan(measures.sideways(empty, story.shots[0]))
    assert motions.path_of(empty) is None


def test_watching_pieces_is_watching_the_whole():
    frames = drawn(stories_of("circle", 2))
    watched = sampling.watch([frames[:, :, :1], *frames[:, :, 1:].split(4, dim=2)])
    whole = tracker.find(frames)
    torch.testing.assert_close(watched.detections.centre, whole.centre, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(watched.changes, measures.frame_changes(frames))
    assert torch.equal(watched.stills, frames[:, :, :: sampling.EVERY].half())


def test_a_contact_sheet_has_a_row_for_each_clip():
    frames = torch.stack([torch.full((3, 17, 32, 48), -1.0), torch.full((3, 17, 32, 48), 1.0)])
    sheet = measures.contact_sheet(frames, ["black", "white"], every=8, line=14)
    assert sheet.size == (3 * (48 + 2), 2 * (32 + 2 + 14))
    assert sheet.getpixel((10, 30)) == (0, 0, 0)
    assert sheet.getpixel((110, 14 + 34 + 20)) == (255, 255, 255)
