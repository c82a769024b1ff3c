"""What convolutions left to be added, RMS norm and SiLU, and the time steps that the next one reads."""

from ..dispatch import by_device
from . import reference
from .reference import HISTORY, Four, Frames, Parts, paired_taps

causal_frames = by_device(reference.causal_frames)
paired_frames = by_device(reference.paired_frames)
summed = by_device(reference.summed)

__all__ = [
    "HISTORY",
    "Four",
    "Frames",
    "Parts",
    "causal_frames",
    "paired_frames",
    "paired_taps",
    "summed",
]
