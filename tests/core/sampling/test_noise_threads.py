"""Noise is drawn in one thread: others would spin for a while after each piece, and slow a film's encoder."""

import time

import pytest
import torch
from comfyui_sana_video.sana_video_core.sampling.noise import draw_noise
from comfyui_sana_video.sana_video_core.shapes import LatentGrid


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_other_threads_sleep_while_noise_is_drawn(threads):
    mine = everyone = 0.0
    for number in range(6):
        began = time.thread_time(), time.process_time()
        draw_noise(number, 0, 10, 0, batch=1, channels=16, grid=LatentGrid(60, 104))
        mine += time.thread_time() - began[0]
        time.sleep(0.03)  # as long as they spin
        everyone += time.process_time() - began[1]
    assert everyone < 1.5 * mine
