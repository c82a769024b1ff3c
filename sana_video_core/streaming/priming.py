"""Turns pictures and videos into the latents that a stream or a clip begins with."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from ..config import Family
from ..errors import InputError
from ..files.film import Source
from ..files.image_file import fit_images
from ..files.video_reader import check_end, nearest_frames, read_frames
from ..shapes import checked_fps
from ..vae.statistics import to_model_space

PRIMED = 41  # latent frames taken from the end of a video: 161 frames, 10 s


@torch.no_grad()
def encode_beginning(encode: Callable[[Tensor], Tensor], pixels: Tensor, family: Family) -> Tensor:
    """Frames [B, 3, n, H, W] in [-1, 1] to latents [B, C, F, H, W] in model space, float32.

    `encode` is a VAE's, into VAE space. Of a video, the last frames that make whole latent frames are used,
    because the stream continues from its end.
    """
    whole = family.compression.whole_frames(pixels.shape[2])
    return to_model_space(encode(pixels[:, :, pixels.shape[2] - whole :]), family.vae)


def video_end(
    source: Source, family: Family, *, width: int, height: int, start: float = 0, duration: float = 0
) -> Tensor:
    """The last frames [1, 3, n, H, W] of a video at the family's rate: at most `PRIMED` latent frames.

    Of the video, only what is shown from `start` on, for `duration` seconds (0: to the end), counts.
    """
    part = {"start": start, "duration": duration}
    return read_frames(source, fps=family.fps, last=_most(family), width=width, height=height, **part)


def check_video_end(source: Source, family: Family) -> None:
    """Refuse a video that can't be read, before anything is loaded."""
    check_end(source, fps=family.fps, last=_most(family))


def images_end(images: Tensor, rate: Fraction, family: Family, *, width: int, height: int) -> Tensor:
    """As `video_end`, of a host's pictures [n, H, W, 3] in [0, 1] at `rate`."""
    shown = nearest_frames(len(images), checked_fps(rate), Fraction(family.fps))[-_most(family) :]
    return fit_images(images[shown], width=width, height=height)


def _most(family: Family) -> int:
    return family.compression.frames(min(PRIMED, family.chunks.limit))


def image_rows(images: Tensor, batch: int, *, width: int, height: int) -> Tensor:
    """A host's pictures [1 or B, H, W, 3] in [0, 1] as frames [1 or B, 3, 1, height, width] in [-1, 1]."""
    if len(images) not in (1, batch):
        raise InputError(
            f"{len(images)} images were given for a batch of {batch}: give one, or one for each. "
            "(Frames of a video go into the video input.)"
        )
    return fit_images(images, width=width, height=height)[0].movedim(1, 0)[:, :, None]
