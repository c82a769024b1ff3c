"""A film in whole chunks: what is made, in which scene, from which seed, and when it is seen."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

from ..config import PROMPT_CHANGES, Family

SAID = PROMPT_CHANGES[1:]  # what a script has to say; the first is the default
LETTERS = 80  # of a prompt in a readable plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One line of a script."""

    line: int = field(compare=False)  # where the script has it, counted from 1
    text: str
    change: str  # how it begins: start (its scene is empty, and the film's first), or one of PROMPT_CHANGES
    seed: int
    scene: int  # counted from 0
    first_chunk: int  # of the film, counted from 0
    chunks: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Shots without a gap, scene after scene.

    Chunks, frames and seconds are those that the film adds to what its first scene holds before.
    """

    shots: tuple[Shot, ...]
    fps: Fraction
    family: Family
    begins_at: int = 0  # latent frames in the first scene before the film: of a state, or a primed picture

    @property
    def chunks(self) -> int:
        return self.shots[-1].first_chunk + self.shots[-1].chunks

    @property
    def scenes(self) -> int:
        return self.shots[-1].scene + 1

    @property
    def frames(self) -> int:
        return self.frames_before(self.chunks)

    @property
    def seconds(self) -> float:
        return float(self.frames / self.fps)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Latent frames of each chunk."""
        rule, openings = self.family.chunks, set(self._openings)
        return tuple(rule.first if chunk in openings else rule.base for chunk in range(self.chunks))

    def frames_before(self, chunk: int) -> int:
        """Frames of the film before its chunk number `chunk`, counted from 0."""
        opened = bisect_right(self._openings, chunk - 1)
        return chunk * chunk_frames(self.family) + opened * opening_frames(self.family)

    def shot_of(self, chunk: int) -> Shot:
        """The shot that chunk number `chunk` belongs to."""
        return self.shots[bisect_right(self.shots, chunk, key=lambda shot: shot.first_chunk) - 1]

    @cached_property
    def _openings(self) -> tuple[int, ...]:
        """The chunks that begin in an empty scene."""
        return tuple(shot.first_chunk for shot in self.shots if shot.change in ("start", "cut"))


def chunk_frames(family: Family) -> int:
    """Frames of a chunk (40)."""
    return family.chunks.base * family.compression.time


def opening_frames(family: Family) -> int:
    """Frames that the first chunk of an empty scene has more than others (1)."""
    return family.compression.frames(family.chunks.first) - chunk_frames(family)


def describe(plan: Plan) -> list[str]:
    """A plan to be read: a line for all of it, and one for every shot, with the times at which it is seen."""
    lines = [
        f"{_counted(plan.chunks, 'chunk')} · {_counted(plan.scenes, 'scene')} · {plan.frames} frames · "
        f"{plan.seconds:.1f} s at {float(plan.fps):.5g} fps"
    ]
    for shot in plan.shots:
        begins, ends = (
            clock(plan.frames_before(chunk) / plan.fps, 1)
            for chunk in (shot.first_chunk, shot.first_chunk + shot.chunks)
        )
        text = shot.text if len(shot.text) <= LETTERS else f"{shot.text[:LETTERS].rstrip()} …"
        lines.append(
            f"{begins} to {ends} · {_counted(shot.chunks, 'chunk')} · scene {shot.scene + 1}"
            f"{f', {shot.change}' * (shot.change in SAID)} · seed {shot.seed} · {text}"
        )
    return lines


def script_of(plan: Plan) -> str:
    """A plan as a script again, with its snapped times and its seeds. Parsed, it gives the same plan."""
    lines, scene, seed = [], -1, 0
    for shot in plan.shots:
        is_opening = shot.scene != scene
        words = [snapped(plan.frames_before(shot.first_chunk), plan.fps, plan.family)]
        words += [f"{shot.change}:"] if shot.change in SAID else []
        if is_opening or shot.seed != seed:
            words.append(f"seed={shot.seed}")
        scene, seed = shot.scene, shot.seed if is_opening else seed
        lines.append(" ".join([*words, shot.text]))
    return "\n".join([*lines, f"{snapped(plan.frames, plan.fps, plan.family)} end"])


def snapped(frames: Fraction | int, fps: Fraction, family: Family) -> str:
    """A time for a script: that of a frame, to half a chunk, which suffices to name the chunk nearest to it.

    So times stay round, though every scene has one frame more than whole chunks.
    """
    half = Fraction(chunk_frames(family), 2)
    return short_clock(round(frames / half) * half / fps)


def clock(seconds: Fraction, decimals: int = 0) -> str:
    """A time as m:ss or h:mm:ss, with so many decimals."""
    whole, rest = divmod(round(seconds * 10**decimals), 10**decimals)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{text}.{rest:0{decimals}}" if decimals else text


def short_clock(seconds: Fraction) -> str:
    """A time as m:ss or h:mm:ss, to a millisecond, without decimals that are zero."""
    return clock(seconds, 3).rstrip("0").removesuffix(".")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
