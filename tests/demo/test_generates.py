"""The demo model, on sentences that it never saw: thresholds with margin below what docs/demo_model.md measured.

A few clips only, so that everybody can run them; benchmarks/quality.py measures the same on many.
"""

import pytest
import torch
from comfyui_sana_video.sana_video_core.demo_set import demo_set
from comfyui_sana_video.training.quality import Quality, held_out_stories
from comfyui_sana_video.training.sampling import load
from comfyui_sana_video.training.scenes import STRAIGHT

pytestmark = pytest.mark.slow
CHUNKS = 2


@pytest.fixture(scope="module")
def quality():
    """Six clips: four of straight movers, who tell about borders, and two of others."""
    stories = held_out_stories(100, CHUNKS)
    straight = [story for story in stories if story.shots[0].motion in STRAIGHT][:4]
    others = [story for story in stories if story.shots[0].motion not in STRAIGHT][:2]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # nothing else runs beside it, and nothing here is compared to the bit
    yield Quality(load(demo_set(), "cpu"), chunks=CHUNKS, batch=6, given=(*straight, *others))
    torch.set_num_threads(threads)


def test_sentences_are_obeyed(quality):
    table = quality.prompts()
    assert table["colour"] >= 0.6
    assert table["motion"] >= 0.6


def test_motion_goes_on_over_a_border_because_the_state_is_carried(quality):
    table = quality.borders()
    carried = table["state carried: border error, all, median (px)"]
    dropped = table["state dropped: border error, all, median (px)"]
    assert carried <= 3
    assert dropped >= 5 * carried
    assert 0.7 <= table["state carried: seam ratio, median"] <= 1.4


def test_pictures_survive_the_vae(quality):
    table = quality.vae()
    assert table["PSNR mean (dB)"] >= 28
