"""The script of a film: a text, a line a shot, becomes a plan of whole chunks.

    0:00 a fox runs through snow
    0:05 the fox stops
    0:10 cut: a frozen lake
    0:20 keep: it begins to snow
    0:30 end

docs/films.md describes the language. It needs no model, so mistakes are said before any work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ..config import LONGSANA_480P, Family
from ..errors import InputError
from ..shapes import checked_fps
from .lines import MOST_SEED, Line, mistake, read_lines
from .plan import Plan, Shot, chunk_frames, opening_frames, short_clock, snapped

MOST_CHUNKS = 9999  # of a film: 7 hours, and 40 GB of history at 480p


def parse_script(
    text: str,
    *,
    seconds: float,
    seed: int,
    fps: float | Fraction | None = None,
    family: Family = LONGSANA_480P,
    begins_at: int = 0,
) -> Plan:
    """The plan of a film.

    `seconds` is read if the script has no `end`. `fps` None is the family's. `begins_at`: latent frames that
    the first scene holds before the film. Scene k uses `seed` + k unless its first line has one; a seed of a
    later line is that shot's. Raises InputError, with the number of the line.
    """
    if not 0 <= seed <= MOST_SEED:
        raise InputError(f"The seed is {seed}; choose one from 0 to {MOST_SEED}.")
    lines, rate = read_lines(text), checked_fps(family.fps if fps is None else fps)
    raster = _Raster(lines.shots, rate, family, begins_at)
    if lines.shots[0].begins is None:
        counts = raster.divided(lines.end[1] if lines.end else _checked(seconds))
    else:
        counts = raster.timed(lines.end, seconds)
    shots = tuple(_shots(raster, counts, seed))
    return Plan(shots=shots, fps=rate, family=family, begins_at=begins_at)


def _checked(seconds: float) -> Fraction:
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"The film is to last {seconds} seconds; give more than 0.")
    return Fraction(seconds)


@dataclass(frozen=True, slots=True)
class _Raster:
    """Lays shots on whole chunks. Frames are counted as Fractions, for times between them."""

    lines: tuple[Line, ...]
    fps: Fraction
    family: Family
    begins_at: int

    @property
    def chunk(self) -> Fraction:
        return Fraction(chunk_frames(self.family))

    def opens(self, place: int) -> bool:
        """Whether the scene is empty when a shot begins."""
        return self.lines[place].change == "cut" or (place == 0 and not self.begins_at)

    def divided(self, seconds: Fraction) -> list[int]:
        """Chunks of each shot, all as long as whole chunks allow."""
        count, frames = len(self.lines), seconds * self.fps
        if (room := _nearest(frames / self.chunk)) < count:
            raise mistake(
                self.lines[room].number,
                f"{short_clock(seconds)} has room for {room} of the {count} shots: each takes at least a "
                f"chunk, {self.lasts(1)}. Give the film {self.lasts(count)}, or fewer lines.",
            )
        openings = sum(map(self.opens, range(count))) * opening_frames(self.family)
        chunks = max(count, _nearest((frames - openings) / self.chunk))
        borders = [_nearest(Fraction(place * chunks, count)) for place in range(count + 1)]
        return [after - before for before, after in pairwise(borders)]

    def timed(self, end: tuple[int, Fraction] | None, seconds: float) -> list[int]:
        """Chunks of each shot, so that it ends as near to the next one's time as whole chunks allow."""
        self._check_order(end)
        counts, made, nominal = [], 0, 0
        for place, until in enumerate(self._until(end, seconds)):
            if until * self.fps < nominal + self.chunk / 2:
                raise self._too_short(place, until, made, end)
            made += opening_frames(self.family) * self.opens(place)
            chunks = max(1, _nearest((until * self.fps - made) / self.chunk))
            counts.append(chunks)
            made, nominal = made + chunks * self.chunk, nominal + chunks * self.chunk
        return counts

    def _check_order(self, end: tuple[int, Fraction] | None) -> None:
        times = [(line.number, line.begins or Fraction(0)) for line in self.lines]
        number, first = times[0]
        if first:
            raise mistake(
                number, f"it begins at {short_clock(first)}, but a film begins at 0:00. Give this shot 0:00."
            )
        times += [end] if end else []
        for (before, earlier), (number, time) in pairwise(times):
            if time <= earlier:
                raise mistake(
                    number,
                    f"its time, {short_clock(time)}, isn't after that of line {before}, "
                    f"{short_clock(earlier)}. Write the shots in their order, each with a later time.",
                )

    def _until(self, end: tuple[int, Fraction] | None, seconds: float) -> list[Fraction]:
        """When each shot ends, in seconds."""
        begins = [line.begins or Fraction(0) for line in self.lines]
        if end is not None:
            return [*begins[1:], end[1]]
        if not math.isfinite(seconds) or seconds <= begins[-1]:
            raise self._no_end(begins[-1], seconds)
        return [*begins[1:], Fraction(seconds)]

    def _no_end(self, begins: Fraction, seconds: float) -> InputError:
        return mistake(
            self.lines[-1].number,
            f"this last shot begins at {short_clock(begins)}, and nothing says when it ends, as the film is "
            f"to last {seconds:g} seconds. Add a line with the end, for example "
            f"“{short_clock(begins + 2 * self.chunk / self.fps)} end”, or give more seconds.",
        )

    def _too_short(
        self, place: int, until: Fraction, made: Fraction | int, end: tuple[int, Fraction] | None
    ) -> InputError:
        """A shot that is shorter than half a chunk. The line to change is the one after it."""
        line = self.lines[place]
        least = made + self.chunk + opening_frames(self.family) * self.opens(place)
        possible = snapped(least, self.fps, self.family)
        begins = short_clock(line.begins or Fraction(0))
        if place + 1 < len(self.lines):
            number, what = self.lines[place + 1].number, "this shot begins"
        elif end is not None:
            number, what = end[0], "the film ends"
        else:
            return self._no_end(line.begins or Fraction(0), float(until))
        return mistake(
            number,
            f"{what} at {short_clock(until)}, too soon after line {line.number} ({begins}): a shot takes at "
            f"least a chunk, {self.lasts(1)}. Write {possible} or later, or leave out one of the two.",
        )

    def lasts(self, chunks: int) -> str:
        return f"{float(chunks * self.chunk / self.fps):.4g} seconds"


def _nearest(number: Fraction) -> int:
    """The nearest whole number; the larger one of two."""
    return math.floor(number + Fraction(1, 2))


def _shots(raster: _Raster, counts: list[int], seed: int) -> Iterator[Shot]:
    """The shots with their scenes and seeds. Raises InputError where a scene or the film gets too long."""
    room, chunk, scene = _Room(raster, 0, raster.begins_at), 0, 0
    scene_seed = seed
    for place, (line, count) in enumerate(zip(raster.lines, counts, strict=True)):
        opens = raster.opens(place)
        if opens:
            room = _Room(raster, place, 0)
            scene += place > 0
        if opens or place == 0:
            scene_seed = (seed + scene) % (MOST_SEED + 1) if line.seed is None else line.seed
        room.take(place, count)
        if chunk + count > MOST_CHUNKS:
            raise mistake(
                line.number,
                f"with it the film has {chunk + count} chunks, and {MOST_CHUNKS} are possible. Make it "
                "shorter, or make several films.",
            )
        yield Shot(
            line=line.number,
            text=line.text,
            change="start" if place == 0 and not raster.begins_at else line.change,
            seed=scene_seed if line.seed is None else line.seed,
            scene=scene,
            first_chunk=chunk,
            chunks=count,
        )
        chunk += count


class _Room:
    """What a scene has room for."""

    def __init__(self, raster: _Raster, place: int, held: int) -> None:
        rule = raster.family.chunks
        self._raster, self._place, self._held, self._taken = raster, place, held, 0
        self._most = (rule.limit - held) // rule.base if held else rule.most

    def take(self, place: int, count: int) -> None:
        """Give a shot its chunks. Raises InputError where they don't fit."""
        self._taken += count
        if self._taken <= self._most:
            return
        raster, limit = self._raster, self._raster.family.chunks.limit
        held = f", as {self._held} of them are there before the film" if self._held else ""
        raise mistake(
            raster.lines[place].number,
            f"with this shot its scene, which begins in line {raster.lines[self._place].number}, has "
            f"{self._taken} chunks, and there is room for {self._most} ({raster.lasts(self._most)}). A scene "
            f"holds {limit} latent frames{held}. Begin a new one sooner, with “cut:” in a line, or make the "
            "film shorter.",
        )
