"""The kernels' operations. The VAE imports them only from here."""

from ...kernels.causal_frames import (
    HISTORY,
    Four,
    Parts,
    causal_frames,
    paired_frames,
    paired_taps,
    summed,
)
from ...kernels.clip_frames import Pending, clip_frames, clip_sum, frames_of, length_of
from ...kernels.dispatch import Choice, choose_for_frames
from ...kernels.tap_sum import sum_of_taps

__all__ = [
    "HISTORY",
    "Choice",
    "Four",
    "Parts",
    "Pending",
    "causal_frames",
    "choose_for_frames",
    "clip_frames",
    "clip_sum",
    "frames_of",
    "length_of",
    "paired_frames",
    "paired_taps",
    "sum_of_taps",
    "summed",
]
