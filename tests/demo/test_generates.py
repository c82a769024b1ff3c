"""The demo model on sentences that it never saw, with margin below what docs/demo_model.md measured.

A few videos that the shipped model gets right, so whatever goes wrong here is a change in it. They were
picked: how often it gets them right, `benchmarks/quality.py` measures on many. All are sampled once.
"""

import time
from dataclasses import replace

import pytest
import torch
from comfyui_sana_video.demo.model_set import demo_set
from comfyui_sana_video.sana_video_core.config import DEMO, WAN_2_1
from comfyui_sana_video.sana_video_core.films.script import parse_script
from comfyui_sana_video.sana_video_core.streaming.stream import Sampling
from comfyui_sana_video.sana_video_core.vae.statistics import to_vae_space
from comfyui_sana_video.training import quality as module
from comfyui_sana_video.training.measures import obeyed
from comfyui_sana_video.training.quality import Quality, changed_stories, held_out_stories
from comfyui_sana_video.training.sampling import load, sample, watch, watch_state
from comfyui_sana_video.training.scenes import TURNING, Shot
from support.calibration import limit
from support.pack import ROOT

pytestmark = pytest.mark.slow
CHUNKS = 2
LONG = 24
TAIL = 6  # latent frames of a long video's end that are looked at


@pytest.fixture(scope="module")
def quality():
    """Two videos: a star that moves down, a square that moves up."""
    models, stories = load(demo_set(), "cpu"), held_out_stories(6, CHUNKS)
    for layer in models.vae.modules():
        if isinstance(layer, torch.nn.Conv3d):  # a third faster on a CPU
            layer.weight.data = layer.weight.to(memory_format=torch.channels_last_3d)
    return Quality(models, count=1, vae_clips=2, chunks=CHUNKS, chosen=(stories[0], stories[5]))


def test_sentences_are_obeyed(quality):
    assert quality.prompts() == {"colour": 1, "shape": 1, "motion": 1, "all": 1}


def test_motion_continues_over_a_border_because_the_state_is_carried(quality):
    table = quality.borders()
    carried = table["state carried: border error, all, median (px)"]
    dropped = table["state dropped: border error, all, median (px)"]
    assert carried <= 1
    assert dropped >= 8 * carried
    assert 0.8 <= table["state carried: seam ratio, median"] <= 1.25
    assert table["state carried: lost at a border"] == 0


@pytest.mark.parametrize("how", ["keep", "recache", "cut"])
def test_a_new_sentence_is_heard_at_the_border(quality, monkeypatch, how):
    """A green star that shrinks turns red and moves up."""
    story = changed_stories(4)[3]
    monkeypatch.setattr(module, "changed_stories", lambda count: [story])
    assert replace(quality, chosen=()).changes((how,))[f"{how}: all"] == 1


def test_shape_and_light_hold_for_a_minute(quality):
    """24 chunks of a star and a cross; the ends of the first chunk and of the last, decoded alone."""
    stories = held_out_stories(3, LONG)[::2]
    sentences = [story.shots[0].sentence for story in stories]
    states = {1: sample(quality.models, sentences, Sampling(seed=1), chunks=1)}
    states[LONG] = sample(quality.models, sentences, Sampling(seed=1), chunks=LONG - 1, state=states[1])
    tails = {chunk: _tail(quality.models, state) for chunk, state in states.items()}
    frames = range(4, 1 + 4 * (TAIL - 1))  # the first pictures of a clip are not what the stream shows there
    for number, story in enumerate(stories):
        assert obeyed(story.shots[0], tails[LONG].detections.of(number), frames).shape, story
    brightness = [tails[chunk].brightness[:, frames].mean() for chunk in (1, LONG)]
    assert 0.9 <= brightness[1] / brightness[0] <= 1.1


@torch.no_grad()
def _tail(models, state):
    latents = state.history[-1].latents[:, :, -TAIL:].float()
    return watch([models.vae.decode(to_vae_space(latents, WAN_2_1))])


def test_pictures_survive_the_vae(quality):
    table = quality.vae()
    assert table["PSNR mean (dB)"] >= 36
    assert table["PSNR least (dB)"] >= 32


def test_the_video_that_everybody_sees_first_shows_what_its_prompts_say(quality):
    """The film of `make demo`; its six chunks take less than twice what three may take."""
    began, state = time.perf_counter(), None
    plan = parse_script((ROOT / "demo" / "film.txt").read_text("utf-8"), seconds=1, seed=0, family=DEMO)
    assert [(shot.change, shot.chunks) for shot in plan.shots] == [
        ("start", 2),
        ("recache", 1),
        ("keep", 1),
        ("cut", 2),
    ]
    for shot in plan.shots:
        change = "recache" if shot.change == "start" else shot.change
        sampling = Sampling(seed=shot.seed, on_prompt_change=change)
        state = sample(quality.models, [shot.text], sampling, chunks=shot.chunks, state=state)
    assert state is not None
    detections = watch_state(quality.models, state).detections.of(0)
    assert time.perf_counter() - began < limit(60)
    shots = [
        Shot("red", "ball", "right", "blue"),
        Shot("red", "ball", "circle", "blue", turns="yellow"),
        Shot("yellow", "ball", "grow", "blue"),
        Shot("purple", "ring", "bounce", "green"),
    ]
    assert [shot.sentence for shot in shots] == [shot.text for shot in plan.shots]
    for planned, shot in zip(plan.shots, shots, strict=True):
        first, last = planned.first_chunk, planned.first_chunk + planned.chunks
        turning = TURNING if planned.change in ("recache", "keep") else 0
        frames = range(plan.frames_before(first) + turning, plan.frames_before(last))
        assert obeyed(shot, detections, frames).all, shot.sentence
