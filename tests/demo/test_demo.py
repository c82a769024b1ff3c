"""The demo model, on sentences that it never saw: thresholds with margin below what docs/demo_model.md measured.

A few clips only, so that everybody can run them; benchmarks/quality.py measures the same on many.
"""

import pytest
import torch
from comfyui_sana_video.sana_video_core.decode import decode_clip
from comfyui_sana_video.sana_video_core.demo_set import demo_set
from comfyui_sana_video.sana_video_core.stream import Sampling
from comfyui_sana_video.sana_video_core.wan_vae import to_vae_space
from comfyui_sana_video.training.measures import light
from comfyui_sana_video.training.quality import Quality, held_out_stories
from comfyui_sana_video.training.sampling import load, sample
from comfyui_sana_video.training.scenes import SHAPES, STRAIGHT
from comfyui_sana_video.training.tracker import find

pytestmark = pytest.mark.slow
CHUNKS = 2
LONG = 24


@pytest.fixture(scope="module")
def quality():
    """Ten clips: six of straight movers, who tell about borders, and four of others."""
    stories = held_out_stories(200, CHUNKS)
    straight = [story for story in stories if story.shots[0].motion in STRAIGHT][:6]
    others = [story for story in stories if story.shots[0].motion not in STRAIGHT][:4]
    return Quality(load(demo_set(), "cpu"), chunks=CHUNKS, batch=10, given=(*straight, *others))


def test_sentences_are_obeyed(quality):
    table = quality.prompts()
    assert table["colour"] >= 0.75
    assert table["motion"] >= 0.75


def test_motion_goes_on_over_a_border_because_the_state_is_carried(quality):
    table = quality.borders()
    carried = table["state carried: border error, straight and clear, median (px)"]
    dropped = table["state dropped: border error, all, median (px)"]
    assert table["state carried: straight and clear borders"] >= 2
    assert carried <= 2
    assert dropped >= 5 * carried
    assert 0.7 <= table["state carried: seam ratio, median"] <= 1.4


def test_pictures_survive_the_vae(quality):
    table = quality.vae()
    assert table["PSNR mean (dB)"] >= 28


def test_a_stream_is_still_itself_after_24_chunks(quality):
    """One minute of a ball: only the ends are decoded, each as a clip of its own."""
    story = next(story for story in held_out_stories(200, 1) if story.shots[0].motion == "circle")
    shot = story.shots[0]
    state = sample(quality.models, [shot.sentence], Sampling(seed=3), chunks=LONG)
    assert len(state.story) == LONG
    first, last = (_frames(quality.models.vae, state.story[n].latents) for n in (0, -1))
    found = find(last)
    assert found.there.float().mean() > 0.9
    assert SHAPES[int(found.voted_shape[0])] == shot.shape
    brightness = [light(frames)[0].mean() for frames in (first, last)]
    assert float(brightness[1] / brightness[0]) == pytest.approx(1, abs=0.1)


def _frames(vae, latents):
    """Frames [1, 3, T, H, W] of the last latent frames; the first of them alone knows no past, and is left out."""
    pieces = decode_clip(vae, to_vae_space(latents[:, :, -6:]))
    return torch.cat(list(pieces), dim=2)[:, :, 5:]
