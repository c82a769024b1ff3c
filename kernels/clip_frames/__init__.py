"""What convolutions left to be added and enlarged, RMS norm and SiLU, and the frames that the next one reads,
at the ends of a clip, too.
"""

from ..dispatch import by_device
from . import reference
from .reference import Frames, Pending, frames_of, length_of

clip_frames = by_device(reference.clip_frames)
clip_sum = by_device(reference.clip_sum)

__all__ = ["Frames", "Pending", "clip_frames", "clip_sum", "frames_of", "length_of"]
