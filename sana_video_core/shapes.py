"""All arithmetic between pixels, latents, tokens and chunks.

A frame is a pixel frame; a latent frame is always called that. F latent frames, H latent rows, W latent
columns, S tokens per latent frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from .errors import InputError

LONGEST_SIDE = 4096  # pixels
LARGEST_AREA = 4096 * 2304  # 24 times what the 480p models were trained at
SLOWEST_BROADCAST = 12  # frames a second of which there is a kind with 1000/1001 of it
MOST_TOKENS = 1 << 22  # of a whole clip: 2600 latent frames of 832 x 480, or 113 of 4096 x 2304


def check_picture(height: int, width: int) -> None:
    """Raises InputError for a picture that no model here can make and no GPU could hold."""
    if max(height, width) > LONGEST_SIDE or height * width > LARGEST_AREA:
        raise InputError(
            f"{width} x {height} pixels are too many: the longest side is {LONGEST_SIDE}, "
            "and the largest picture has as many pixels as 4096 x 2304. "
            "The models were trained at 832 x 480 and 1280 x 704: stay near that, and enlarge it afterwards."
        )


class LatentGrid(NamedTuple):
    """Latent rows and columns of one video."""

    rows: int
    columns: int

    def tokens(self, patch: int) -> LatentGrid:
        """The token rows and columns. Raises InputError when the grid does not divide into patches."""
        if self.rows % patch or self.columns % patch:
            raise InputError(
                f"Latents of {self.rows} x {self.columns} (rows x columns) do not divide into patches of "
                f"{patch} x {patch}. Use a picture whose height and width are multiples of the model's step."
            )
        return LatentGrid(self.rows // patch, self.columns // patch)

    @property
    def area(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Compression:
    """How pixels become latents and tokens: the VAE's strides in time and space, the patch side."""

    time: int
    space: int
    patch: int
    least: int = 1  # latents a side that the VAE needs

    @property
    def multiple(self) -> int:
        """Height and width are multiples of this many pixels (16 with the Wan VAE, 32 with LTX-2's)."""
        return self.space * self.patch

    def grid(self, height: int, width: int) -> LatentGrid:
        """The latent grid of a picture of `height` x `width` pixels. Raises InputError if there is none."""
        check_picture(height, width)
        step = self.multiple
        for name, value in (("height", height), ("width", width)):
            least = max(step, self.least * self.space)
            if value < least or value % step:
                below = max(least, value // step * step)
                near = f"{below}" if value < least else f"{below} or {below + step}"
                at_least = f", {least} at least" if value < least and least > step else ""
                raise InputError(
                    f"The {name} is {value} pixels; it has to be a multiple of {step}{at_least}. Try {near}."
                )
        return LatentGrid(height // self.space, width // self.space)

    def check_clip(self, grid: LatentGrid, latent_frames: int, batch: int = 1) -> None:
        """Raises InputError for a clip that no memory could hold."""
        tokens = batch * latent_frames * grid.tokens(self.patch).area
        if tokens > MOST_TOKENS:
            height, width = self.pixels(grid)
            frames = self.frames(latent_frames)
            raise InputError(
                f"{batch} x {frames} frames of {width} x {height} are {tokens:,} tokens, and more than "
                f"{MOST_TOKENS:,} fit into no memory. Make it shorter, smaller or of fewer at a time."
            )

    def pixels(self, grid: LatentGrid) -> tuple[int, int]:
        """Height and width in pixels of a latent grid."""
        return grid.rows * self.space, grid.columns * self.space

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip; `frames` has to be a multiple of the time stride, plus one."""
        if frames < 1 or (frames - 1) % self.time:
            below = max(1, (frames - 1) // self.time * self.time + 1)
            near = f"{below}" if frames < 1 else f"{below} or {below + self.time}"
            raise InputError(
                f"A clip of {frames} frames is not possible: "
                f"the count has to be {self.time}n + 1. Try {near}."
            )
        return (frames - 1) // self.time + 1

    def frames(self, latent_frames: int) -> int:
        """Frames that a scene of `latent_frames` latent frames decodes to (0 for none)."""
        return max(0, (latent_frames - 1) * self.time + 1)

    def latent_frames_of(self, frames: int) -> int:
        """Latent frames that the first `frames` frames of a scene come from (0 for none)."""
        return (frames - 1) // self.time + 1 if frames > 0 else 0

    def whole_frames(self, frames: int) -> int:
        """The longest possible clip of at most `frames` frames."""
        return self.frames(self.latent_frames_of(frames))


@dataclass(frozen=True, slots=True)
class ChunkRule:
    """How many latent frames are denoised together: `first` at the start of a scene, then `base` at a time.

    The original plans a clip of known length with the remainder in the first chunk
    (diffusion/longsana/pipeline/sana_inference_pipeline.py); an open-ended stream starts with `first`.
    """

    first: int = 11
    base: int = 10
    limit: int = 1024  # latent frames in a scene, the length of the rotary table in training

    @property
    def most(self) -> int:
        """Chunks that a scene has room for (102)."""
        return (self.limit - self.first) // self.base + 1

    def check_count(self, chunks: int) -> None:
        """Raises InputError unless one request may ask for so many chunks."""
        if not 1 <= chunks <= self.most:
            raise InputError(
                f"{chunks} chunks were asked for; a scene has room for 1 to {self.most}. "
                "Ask for fewer, or continue in a new scene (on prompt change: cut)."
            )

    def plan(self, latent_frames: int) -> tuple[int, ...]:
        """Chunk lengths of a scene of known length: 21 -> (11, 10); fewer than `base` are one chunk."""
        if latent_frames < 1:
            raise InputError(
                f"A plan for {latent_frames} latent frames is not possible; at least 1 is needed."
            )
        if latent_frames < self.base:
            return (latent_frames,)
        head = self.base + latent_frames % self.base
        return (head,) + (self.base,) * ((latent_frames - head) // self.base)

    def following(self, position: int, chunks: int) -> tuple[int, ...]:
        """Lengths of the next `chunks` chunks of a scene that already holds `position` latent frames."""
        self.check_count(chunks)
        return (self.base if position else self.first,) + (self.base,) * (chunks - 1)

    def check_room(self, position: int, plan: tuple[int, ...]) -> None:
        """Raises InputError when a scene at `position` has no room for `plan`."""
        if not plan or any(length < 1 for length in plan):
            raise InputError(
                f"The chunk plan {plan} is empty or has a chunk without latent frames; each needs at least 1."
            )
        if position + sum(plan) > self.limit:
            room = max(0, self.limit - position)
            raise InputError(
                f"This scene holds {position} latent frames and {sum(plan)} more were asked for, "
                f"but the model knows positions up to {self.limit} ({self.most} chunks). There is room for "
                f"{room} more ({room // self.base if position else self.most} chunks); "
                "then start a new scene (on prompt change: cut)."
            )


def checked_fps(fps: float | Fraction) -> Fraction:
    """A frame rate as a fraction, 29.97 as 30000/1001. Raises InputError for one that no file can have."""
    if not (math.isfinite(fps) and 0.01 <= fps <= 1000):
        raise InputError(f"fps is {fps}; it has to be 0.01 to 1000; SANA-Video makes 16.")
    whole = round(fps * 1001 / 1000)  # 30 for 29.97
    broadcast = Fraction(whole * 1000, 1001)
    if fps % 1 and whole >= SLOWEST_BROADCAST and abs(fps / broadcast - 1) < 2e-4:  # 23.98 is 24000/1001, too
        return broadcast
    return Fraction(fps).limit_denominator(1001)
