"""The four-step student: the network is rolled out over up to 24 of its own chunks, as the sampler does it.

A stream continues from step to step, with the memory that its own earlier chunks left. A chunk starts from
pure noise (a first chunk and some others: from the truth at a level of the grid), takes the sampler's steps
down to a random one, and there learns to predict the truth. In our scenes the past and the sentence determine
what comes next, so the truth is the target for a chunk from pure noise, too.

They don't determine a first chunk, so there is no truth for pure noise: four steps arrive at a shape
somewhere, but a blurred one. There the target is where a teacher, the network before this training, arrives
from the same point in more and smaller steps with classifier-free guidance (arXiv 2207.12598). Those steps
add no noise: the mean over many outcomes would be blurred again.

Related: Self-Forcing (arXiv 2506.08009) and the long training of LongLive (arXiv 2509.22622); their score
distillation isn't needed where the truth is known.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sana_video_core.sampling.schedule import warp
from ..sana_video_core.sampling.solvers import sample_dpm
from ..sana_video_core.transformer.memory import Memory, SumMemory
from ..sana_video_core.transformer.model import PreparedText
from .flow import GRID, Learner, Words, estimate, mean_error, noised, normal, smeared, wordless
from .latents import Clips, chunk_place

GUIDANCE = 3.0  # of the teacher
TAUGHT = (12, 12, 10, 6)  # the teacher's steps, from each level of the grid down to 0
TEACHER_SHIFT = 4.0  # of the teacher's grid
WINDOW = 2  # chunks that gradients flow through
TRUE = 0.15  # share of the chunks that leave the truth in the memory
FROM_NOISE = 0.6  # share of the later chunks that start from pure noise


@dataclass
class Stream:
    """A batch of streams in the middle of training. Its tensors are replaced, never written to."""

    clips: Clips
    rows: Tensor  # [B]
    length: int  # chunks at which it ends
    chunk: int = 0  # the next one
    memory: Memory | None = None  # before the last chunk
    seen: Tensor | None = None  # what the memory will read of the last chunk


class Streams:
    """Batches of streams at different chunks, in rotation. A third of them are short."""

    def __init__(self, short: Clips, long: Clips, *, count: int, batch: int, seed: int) -> None:
        self.short, self.long, self.batch = short, long, batch
        self.chance = random.Random(f"streams {seed}")
        self.generator = torch.Generator().manual_seed(seed)
        self.streams = [self._fresh() for _ in range(count)]
        self.turn = -1

    def next(self) -> Stream:
        self.turn = (self.turn + 1) % len(self.streams)
        if self.streams[self.turn].chunk >= self.streams[self.turn].length:
            self.streams[self.turn] = self._fresh()
        return self.streams[self.turn]

    def _fresh(self) -> Stream:
        short = self.chance.random() < 1 / 3
        clips = self.short if short else self.long
        length = clips.chunks if short else self.chance.randint(min(4, clips.chunks), clips.chunks)
        rows = torch.randint(len(clips), (self.batch,), generator=self.generator)
        return Stream(clips, rows.to(clips.latents.device), length)


def student_loss(
    learner: Learner, stream: Stream, generator: torch.Generator, chance: random.Random
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss over the next chunks of a stream, which advances by them."""
    last = min(stream.chunk + WINDOW, stream.length)
    numbers = list(range(max(0, stream.chunk - 1), last))
    rows = stream.rows
    words = Words(learner, stream.clips.tokens[rows][:, numbers], stream.clips.mask[rows][:, numbers])
    losses: list[Tensor] = []
    memory = stream.memory
    for chunk in range(stream.chunk, last):
        if chunk:
            first, _ = chunk_place(chunk - 1)
            assert stream.seen is not None
            text = words.absorbing(numbers.index(chunk - 1), generator)
            memory = learner.model.absorb(stream.seen, text, memory=memory, first_frame=first)
        clean = stream.clips.chunk(rows, chunk)
        text = words.of(numbers.index(chunk))
        loss, stream.seen = _chunk_loss(learner, clean, text, memory, chunk, generator, chance)
        losses.append(loss)
    stream.memory, stream.chunk = detached(memory), last
    loss = torch.stack(losses).mean()
    return loss, {"student": loss.detach()}


def _chunk_loss(
    learner: Learner,
    clean: Tensor,
    text: PreparedText,
    memory: Memory | None,
    chunk: int,
    generator: torch.Generator,
    chance: random.Random,
) -> tuple[Tensor, Tensor]:
    """The loss of one chunk, and what the memory will read of it."""
    exit_ = chance.choices(range(len(GRID)), (1, 1, 1, 5))[0]
    if chunk and chance.random() < FROM_NOISE:
        start = 0
    elif chunk or exit_ == len(GRID) - 1:
        start = max(0, exit_ - chance.randint(0, 1))
    else:
        start = exit_  # between noisier levels, a first chunk would leave the truth
    level = torch.full((len(clean),), GRID[start], device=clean.device)
    x = noised(clean, level, normal(clean, generator))
    with torch.no_grad():
        for following in range(start + 1, exit_ + 1):
            _, guess = estimate(learner, x, level, text, memory, chunk)
            level = torch.full_like(level, GRID[following])
            x = noised(guess, level, normal(clean, generator))
    velocity, guess = estimate(learner, x, level, text, memory, chunk)
    # as a velocity: the noise is the difference between x and the truth
    target = (x - clean) / GRID[exit_]
    seen = guess.detach() if exit_ == len(GRID) - 1 and chance.random() > TRUE else smeared(clean, generator)
    return mean_error(velocity, target, chunk), seen


def first_chunk_loss(
    learner: Learner,
    teacher: Learner,
    clips: Clips,
    rows: Tensor,
    generator: torch.Generator,
    chance: random.Random,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of first chunks that the student itself begins, from pure noise down to a random step."""
    tokens, mask = clips.tokens[rows, :1], clips.mask[rows, :1]
    text = Words(learner, tokens, mask).of(0)
    like = clips.chunk(rows, 0)  # only for its shape: there is no truth for this noise
    exit_ = chance.choices(range(len(GRID)), (1, 1, 2, 3))[0]
    x, level = normal(like, generator), torch.ones(len(rows), device=rows.device)
    with torch.no_grad():
        for following in GRID[1 : exit_ + 1]:
            _, guess = estimate(learner, x, level, text, None, 0)
            level = torch.full_like(level, following)
            x = noised(guess, level, normal(guess, generator))
        target = taught(teacher, x, exit_, tokens, mask)
    velocity, _ = estimate(learner, x, level, text, None, 0)
    loss = mean_error(velocity, (x - target) / GRID[exit_], 0)
    return loss, {"begun": loss.detach()}


def taught(teacher: Learner, x: Tensor, exit_: int, tokens: Tensor, mask: Tensor) -> Tensor:
    """Where a guided teacher arrives from first chunks x [B, C, F, H, W] at GRID[exit_].

    tokens, mask [B, 1, L].
    """
    text = Words(teacher, tokens.repeat(2, 1, 1), torch.cat([mask, wordless(mask)])).of(0)

    def velocity(x: Tensor, level: float) -> Tensor:
        levels = torch.full((2 * len(x),), level, device=x.device)
        both, _ = estimate(teacher, x.repeat(2, 1, 1, 1, 1), levels, text, None, 0)
        cond, uncond = both.chunk(2)
        return uncond + GUIDANCE * (cond - uncond)

    start = warp(min(GRID[exit_], 0.999), 1 / TEACHER_SHIFT)  # the solver can't start at exactly 1
    steps = TAUGHT[exit_]
    return sample_dpm(velocity, x, [warp(start * (1 - i / steps), TEACHER_SHIFT) for i in range(steps + 1)])


def detached(memory: Memory | None) -> Memory | None:
    """The same memory, detached from the graph: gradients end here."""
    if memory is None:
        return None
    blocks = []
    for block in memory:
        assert isinstance(block, SumMemory)
        blocks.append(SumMemory(*(tensor.detach() for tensor in block)))
    return tuple(blocks)
