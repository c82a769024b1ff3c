"""Stories of one shape over a floor: their sentences, and where the shape is in every frame.

Everything follows from a seed, on any machine; there are as many stories as needed, and no other data.
Lengths are in heights of the picture, times in frames (16 per second). T frames, B stories.

Straight movers leave on one side and enter on the other, so a constant velocity can last for ever; bouncers
stay inside. When the sentence changes, the shape continues from where it is: it turns, stops, grows, changes
colour.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

FIRST_CHUNK, NEXT_CHUNK = 41, 40  # frames, as a stream has them

# colour: red, green, blue in [0, 1]
COLOURS = {
    "red": (0.90, 0.16, 0.16),
    "orange": (0.98, 0.55, 0.10),
    "yellow": (0.98, 0.88, 0.20),
    "green": (0.20, 0.78, 0.28),
    "blue": (0.22, 0.42, 0.95),
    "purple": (0.68, 0.26, 0.85),
    "white": (0.96, 0.96, 0.96),
}
FLOORS = {
    "blue": (0.12, 0.20, 0.42),
    "green": (0.12, 0.33, 0.20),
    "grey": (0.34, 0.35, 0.37),
    "brown": (0.37, 0.25, 0.16),
    "purple": (0.27, 0.16, 0.38),
    "black": (0.06, 0.06, 0.08),
}
SHAPES = ("ball", "square", "triangle", "star", "ring", "cross")
ROUND = ("ball", "ring")  # they look the same when they spin
STRAIGHT = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
MOTIONS = {
    **{name: f"moves {name}" for name in STRAIGHT},
    "circle": "moves in a circle",
    "bounce": "bounces off the walls",
    "grow": "grows",
    "shrink": "shrinks",
    "spin": "spins",
    "stop": "stops",
}
HELD_OUT = 8  # one sentence in so many is kept from training

PLACES = (0.2, 0.8)  # of the picture, where a story begins
SPEEDS = (0.0095, 0.0115)  # a frame; a shape crosses the picture in 5 to 7 s
RADII = (0.115, 0.15)
AT_FIRST = {"grow": 0.75, "shrink": 1.6}  # factors of the radius where a story begins with this motion
LARGEST, SMALLEST = 0.25, 0.1  # a smaller star looks like a ball, at 8 pixels a latent
GROWTH = 0.0016  # a frame
SLANT = math.radians(40)  # of a bouncer
ORBIT, ORBIT_SPEED = 0.22, 2 * math.pi / 72
SPIN_SPEED = 2 * math.pi / 56
TURNING = 8  # frames that a change of colour or velocity takes


@dataclass(frozen=True, slots=True)
class Shot:
    """What one sentence says. `turns` is the colour that the shape changes to."""

    colour: str
    shape: str
    motion: str
    floor: str
    turns: str | None = None

    @property
    def sentence(self) -> str:
        turning = f"turns {self.turns} and " if self.turns else ""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return (
            f"{article} {self.colour} {self.shape} {turning}{MOTIONS[self.motion]} over a {self.floor} floor"
        )

    @property
    def final_colour(self) -> str:
        return self.turns or self.colour

    @property
    def held_out(self) -> bool:
        """Whether this sentence is kept from training, which depends on the sentence alone."""
        return hashlib.sha256(self.sentence.encode()).digest()[0] % HELD_OUT == 0


@dataclass(frozen=True, slots=True)
class Story:
    """Shots, and the chunk (counted from 0) at which each begins; `seed` decides where and how fast."""

    seed: int
    shots: tuple[Shot, ...]
    begins: tuple[int, ...] = (0,)

    def shot_of(self, chunk: int) -> Shot:
        return self.shots[max(i for i, first in enumerate(self.begins) if first <= chunk)]


class Track(NamedTuple):
    """Every frame of B stories."""

    centre: Tensor  # [B, T, 2] x to the right, y downwards; both modulo the picture
    radius: Tensor  # [B, T]
    angle: Tensor  # [B, T] radians
    colour: Tensor  # [B, T, 3]
    floor: Tensor  # [B, T, 3]
    shape: Tensor  # [B] index into SHAPES


def frames_of(chunks: int) -> int:
    """The number of frames of a stream of `chunks` chunks."""
    return FIRST_CHUNK + NEXT_CHUNK * (chunks - 1)


def random_shot(chance: random.Random) -> Shot:
    colour = chance.choice(list(COLOURS))
    motion = chance.choice(list(MOTIONS))
    shape = chance.choice([s for s in SHAPES if motion != "spin" or s not in ROUND])
    return Shot(colour, shape, motion, chance.choice([f for f in FLOORS if f != colour]))


def changed_shot(before: Shot, chance: random.Random) -> Shot:
    """The next sentence of the same scene: another motion, another colour, or both."""
    shot = replace(before, colour=before.final_colour, turns=None)
    kind = chance.choice(("stop", "motion", "turns", "both"))
    motions = [m for m in MOTIONS if m != shot.motion and (m != "spin" or shot.shape not in ROUND)]
    if kind == "stop" and shot.motion != "stop":
        return replace(shot, motion="stop")
    if kind in ("motion", "both"):
        shot = replace(shot, motion=chance.choice(motions))
    if kind != "motion":
        shot = replace(shot, turns=chance.choice([c for c in COLOURS if c not in (shot.colour, shot.floor)]))
    return shot


def random_story(seed: int, chunks: int, *, changes: float = 0.5, held_out: bool = False) -> Story:
    """A story of `chunks` chunks. With probability `changes`, its sentence changes about every three chunks.

    `held_out`: only sentences that training never sees, or only those that it may see.
    """
    chance = random.Random(f"story {seed}")

    def kept(draw) -> Shot:
        while (shot := draw()).held_out != held_out:
            pass
        return shot

    shots, begins = [kept(lambda: random_shot(chance))], [0]
    if chance.random() < changes:
        chunk = chance.randint(1, 3)
        while chunk < chunks:
            shots.append(kept(lambda: changed_shot(shots[-1], chance)))
            begins.append(chunk)
            chunk += chance.randint(1, 5)
    return Story(seed, tuple(shots), tuple(begins))


def track(stories: Sequence[Story], chunks: int, *, aspect: float = 1.0) -> Track:
    """Where everything is in each frame; float64 on the CPU, so that every machine draws the same."""
    world = _World(stories, aspect)
    frames = []
    for chunk in range(chunks):
        world.hear([story.shot_of(chunk) for story in stories])
        for _ in range(FIRST_CHUNK if chunk == 0 else NEXT_CHUNK):
            frames.append(world.look())
            world.tick()
    shapes = torch.tensor([SHAPES.index(story.shots[0].shape) for story in stories])
    return Track(*(torch.stack(parts, dim=1) for parts in zip(*frames, strict=True)), shape=shapes)


class _World:
    """B shapes at one moment. `hear` gives them a sentence, `tick` moves them by one frame."""

    def __init__(self, stories: Sequence[Story], aspect: float) -> None:
        draws = [random.Random(f"start {story.seed}") for story in stories]

        def drawn(low: float, high: float) -> Tensor:
            return torch.tensor([chance.uniform(low, high) for chance in draws], dtype=torch.float64)

        self.walls = torch.tensor([aspect, 1.0], dtype=torch.float64)
        self.centre = torch.stack([drawn(*PLACES), drawn(*PLACES)], dim=1) * self.walls
        self.radius, self.speed = drawn(*RADII), drawn(*SPEEDS)
        self.angle = drawn(-0.3, 0.3)
        self.way = torch.stack([drawn(-1, 1).sign(), drawn(-1, 1).sign()], dim=1)
        self.velocity: Tensor | None = None  # None before the first sentence: there is no turn
        self.target = torch.zeros_like(self.centre)  # velocity
        self.orbit = torch.zeros(len(stories), dtype=torch.bool)
        self.bounce, self.grow, self.spin = self.orbit, self.radius, self.radius
        self.colour = self.goal = self.floor = torch.zeros(len(stories), 3, dtype=torch.float64)
        self.sentences: list[Shot] = []

    def hear(self, shots: list[Shot]) -> None:
        """Set the targets that the sentences of a chunk ask for. A repeated sentence changes nothing."""
        if shots == self.sentences:
            return
        first = not self.sentences
        changed = torch.tensor([first or a != b for a, b in zip(shots, self.sentences or shots, strict=True)])
        if first:
            self.colour = _colours(COLOURS, [shot.colour for shot in shots])
            times = torch.tensor([AT_FIRST.get(shot.motion, 1.0) for shot in shots])
            self.radius = (self.radius * times).clamp(SMALLEST, LARGEST)
        self.goal = _colours(COLOURS, [shot.final_colour for shot in shots])
        self.floor = _colours(FLOORS, [shot.floor for shot in shots])
        is_a = {m: torch.tensor([shot.motion == m for shot in shots]) for m in MOTIONS}
        started = changed & is_a["circle"]
        # a circle's centre is towards the middle of the picture
        inward = self.walls / 2 - self.centre
        phase = torch.atan2(-inward[:, 1], -inward[:, 0])
        self.phase = torch.where(started, phase, getattr(self, "phase", phase))
        self.orbit = is_a["circle"]
        straight = sum(
            torch.tensor(way, dtype=torch.float64) * is_a[name][:, None] for name, way in STRAIGHT.items()
        )
        # a bouncer keeps its direction
        way = (
            self.way
            if self.velocity is None
            else torch.where(self.velocity == 0, self.way, self.velocity.sign())
        )
        slanted = torch.tensor([math.cos(SLANT), math.sin(SLANT)], dtype=torch.float64) * way
        started = (changed & is_a["bounce"])[:, None]
        bouncing = torch.where(started, slanted * self.speed[:, None], self.target) * is_a["bounce"][:, None]
        self.target = straight * self.speed[:, None] + bouncing
        self.bounce = is_a["bounce"]
        self.grow = GROWTH * (is_a["grow"].double() - is_a["shrink"].double())
        self.spin = SPIN_SPEED * is_a["spin"].double()
        if self.velocity is None:
            self.velocity = self._target_now()
            self.turn = self.spin
        self.sentences = shots

    def look(self) -> tuple[Tensor, ...]:
        return self.centre, self.radius, self.angle, self.colour, self.floor

    def tick(self) -> None:
        assert self.velocity is not None
        target = self._target_now()
        self.velocity = self.velocity + (target - self.velocity).clamp(-2 / 640, 2 / 640)
        # on an orbit the velocity turns by itself; a shape close to it is on it
        close = self.orbit & ((target - self.velocity).abs().amax(1) < 1e-3)
        self.velocity = torch.where(close[:, None], target, self.velocity)
        self.turn = self.turn + (self.spin - self.turn).clamp(-SPIN_SPEED / TURNING, SPIN_SPEED / TURNING)
        self.phase = self.phase + ORBIT_SPEED * self.orbit
        self.centre = self._moved(self.centre + self.velocity)
        self.radius = (self.radius + self.grow).clamp(SMALLEST, LARGEST)
        self.angle = self.angle + self.turn
        self.colour = self.colour + (self.goal - self.colour).clamp(-1 / TURNING, 1 / TURNING)

    def _target_now(self) -> Tensor:
        around = torch.stack([-self.phase.sin(), self.phase.cos()], dim=1) * (ORBIT * ORBIT_SPEED)
        return torch.where(self.orbit[:, None], around, self.target)

    def _moved(self, centre: Tensor) -> Tensor:
        """Bouncers turn around at the walls; all others enter on the other side."""
        low = self.radius[:, None].expand_as(centre)
        high = self.walls - low
        inwards = torch.where(centre < low, 1.0, torch.where(centre > high, -1.0, 0.0))
        hit = self.bounce[:, None] & (inwards != 0)
        self.target = torch.where(hit, self.target.abs() * inwards, self.target)
        assert self.velocity is not None
        self.velocity = torch.where(hit, self.velocity.abs() * inwards, self.velocity)
        return torch.remainder(centre, self.walls)


def _colours(table: dict[str, tuple[float, float, float]], names: list[str]) -> Tensor:
    return torch.tensor([table[name] for name in names], dtype=torch.float64)


def border_frames(chunks: int) -> list[int]:
    """The numbers of the first frames of all chunks after the first."""
    return [frames_of(chunk) for chunk in range(1, chunks)]


def sentences(shots: Sequence[Shot]) -> list[str]:
    return [shot.sentence for shot in shots]


def changes(story: Story) -> list[tuple[Shot, Shot, int]]:
    """(before, after, chunk) of every change of sentence."""
    return [(*pair, chunk) for pair, chunk in zip(pairwise(story.shots), story.begins[1:], strict=True)]
