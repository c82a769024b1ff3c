"""How good a demo set is, in numbers: each section samples what it needs and returns a table of measures.

Shares are of clips, in [0, 1]; errors are in pixels of a picture of 128 x 128; None is what can't be
measured. The sentences are held out: training never saw them.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import torch
from PIL import Image

from ..sana_video_core.streaming.decoding import decode_history
from ..sana_video_core.streaming.state import StreamState
from ..sana_video_core.streaming.stream import Sampling
from .drawing import draw
from .measures import (
    Obeyed,
    border_error,
    clear_of_walls,
    contact_sheet,
    drift_of,
    frames_of_chunk,
    frames_of_shot,
    obeyed,
    sideways,
)
from .sampling import SIDE, Models, Watched, sample, watch, watch_state
from .scenes import FIRST_CHUNK, STRAIGHT, TURNING, Story, border_frames, changed_shot, random_story, track
from .tables import Table, border_table, known, mean, median, shares

FIRST_SEED = 10**8  # of the stories; trainings count from 0
OTHER_SEED = 10**6  # added to a seed for independent noise
SHOWN = 8  # clips on a contact sheet
AT_CHANGE = 2  # frames after a change in which a shape still moves as before


def held_out_stories(count: int, chunks: int) -> list[Story]:
    """Stories of one sentence that training never sees."""
    return [random_story(FIRST_SEED + i, chunks, changes=0, held_out=True) for i in range(count)]


def changed_stories(count: int) -> list[Story]:
    """Stories of two chunks whose sentence changes between them; both sentences are held out."""
    stories = []
    for story in held_out_stories(count, 2):
        chance = random.Random(f"change {story.seed}")
        while not (after := changed_shot(story.shots[0], chance)).held_out or after in story.shots:
            pass
        stories.append(replace(story, shots=(*story.shots, after), begins=(0, 1)))
    return stories


@dataclass(frozen=True)
class Quality:
    """Measures of one set of models. A section is a method without arguments that returns a table."""

    models: Models
    count: int = 64  # clips
    chunks: int = 3
    long: int = 24  # chunks of the long clips
    long_count: int = 16
    batch: int = 8
    vae_clips: int = 8
    chosen: tuple[Story, ...] = ()  # stories of one sentence, in place of `count` random ones

    SECTIONS = ("prompts", "borders", "long", "vae", "changes", "steps", "seconds")

    @cached_property
    def stories(self) -> list[Story]:
        return list(self.chosen) or held_out_stories(self.count, self.chunks)

    @cached_property
    def clips(self) -> Watched:
        """The clips of most sections: `count` clips with the default sampling."""
        return self._sampled(self.stories, self.chunks)

    @cached_property
    def answers(self) -> list[Obeyed]:
        return self._answers(self.clips)

    def prompts(self) -> Table:
        """Which words of the sentences are obeyed, over all frames."""
        return shares(self.answers)

    def borders(self) -> Table:
        """Whether motion continues over the borders of chunks, with the state and without it."""
        carried = border_table(self.stories, self.clips, border_frames(self.chunks))
        first = border_table(self.stories, self.clips, border_frames(self.chunks)[:1])
        dropped = border_table(self.stories, self._dropped(), [FIRST_CHUNK])
        tables = {"state carried": carried, "carried, first border": first, "state dropped": dropped}
        return {f"{name}: {key}": value for name, table in tables.items() for key, value in table.items()}

    def vae(self) -> Table:
        """How well drawn scenes survive the VAE, in dB per clip."""
        ratios = []
        for story in held_out_stories(self.vae_clips, 1):
            frames = draw(track([story], 1), SIDE, SIDE, self.models.device)
            with torch.no_grad():
                error = self.models.vae.decode(self.models.vae.encode(frames)) - frames
            ratios.append(10 * math.log10(4 / max(float(error.square().mean()), 1e-12)))
        return {"PSNR mean (dB)": mean(ratios), "PSNR least (dB)": min(ratios)}

    @cached_property
    def long_clips(self) -> Watched:
        return self._sampled(held_out_stories(self.long_count, self.long), self.long)

    def long_streams(self) -> Table:
        """Whether the last chunk of long streams still obeys."""
        stories, clips = held_out_stories(self.long_count, self.long), self.long_clips
        last = frames_of_chunk(self.long - 1)
        table = shares([obeyed(s.shots[0], clips.detections.of(b), last) for b, s in enumerate(stories)])
        table = {f"{key} in the last chunk": value for key, value in table.items()}
        # a shape that grows or shrinks may change the picture's brightness
        steady = [b for b, story in enumerate(stories) if story.shots[0].motion not in ("grow", "shrink")]
        for name, values in (("brightness", clips.brightness), ("saturation", clips.saturation)):
            ratios = [drift_of(values[b])[-1] for b in steady]
            table[f"{name} of last to first chunk, median"] = median(ratios)
            table[f"{name} of last to first chunk, least"] = min(ratios, default=None)
            table[f"{name} of last to first chunk, greatest"] = max(ratios, default=None)
            table[f"{name} of last to first chunk, within 10 %"] = mean([abs(r - 1) <= 0.1 for r in ratios])
        wandered = [sideways(clips.detections.of(b), story.shots[0]) for b, story in enumerate(stories)]
        table["straight movers, wandered sideways, median (px)"] = median(wandered)
        table["straight movers measured"] = len(known(wandered))
        table.update(border_table(stories, clips, border_frames(self.long)))
        return table | self._drift(stories, clips, steady)

    def _drift(self, stories: Sequence[Story], clips: Watched, steady: Sequence[int]) -> Table:
        """Obedience and light at every quarter of the long clips."""
        table: Table = {}
        for chunk in sorted({max(1, self.long * quarter // 4 - 1) for quarter in (1, 2, 3, 4)}):
            frames, name = frames_of_chunk(chunk), f"chunk {chunk + 1}"
            answers = [obeyed(s.shots[0], clips.detections.of(b), frames) for b, s in enumerate(stories)]
            table[f"{name}: shape"] = mean([answer.shape for answer in answers])
            table[f"{name}: colour"] = mean([answer.colour for answer in answers])
            for light, values in (("brightness", clips.brightness), ("saturation", clips.saturation)):
                table[f"{name}: {light}, median"] = median([drift_of(values[b])[chunk] for b in steady])
        return table

    def changes(self, ways: Sequence[str] = ("keep", "recache", "cut")) -> Table:
        """Whether a new sentence is obeyed after the border, by what happens to the memory there."""
        stories, table = changed_stories(self.count), {}
        for how in ways:
            detections = self._changed(stories, how).detections
            first = FIRST_CHUNK + (0 if how == "cut" else TURNING)
            new = range(first, detections.there.shape[1])
            answers = [obeyed(story.shots[1], detections.of(b), new) for b, story in enumerate(stories)]
            table.update({f"{how}: {key}": value for key, value in shares(answers).items()})
            for word in ("colour", "motion"):
                changed = [
                    getattr(answer, word)
                    for answer, story in zip(answers, stories, strict=True)
                    if _word(story.shots[0], word) != _word(story.shots[1], word)
                ]
                table[f"{how}: new {word}"] = mean(changed)
            if how != "cut":
                errors = [
                    border_error(detections.of(b), FIRST_CHUNK, after=AT_CHANGE)
                    for b, story in enumerate(stories)
                    if story.shots[0].motion in STRAIGHT and clear_of_walls(detections.of(b), FIRST_CHUNK)
                ]
                table[f"{how}: border error, straight and clear, median (px)"] = median(errors)
        return table

    def steps(self) -> Table:
        """Whether sentences are obeyed with other samplers and numbers of steps."""
        table = {f"4 steps few_step: {key}": value for key, value in shares(self.answers).items()}
        for sampler in ("few_step", "euler"):
            clips = self._sampled(self.stories, self.chunks, sampler=sampler, steps=20)
            answers = self._answers(clips)
            table.update({f"20 steps {sampler}: {key}": value for key, value in shares(answers).items()})
        return table

    def seconds(self) -> Table:
        """Sentence to frames of 3 chunks, once the machine is warm."""
        sentence = self.stories[0].shots[0].sentence
        began = 0.0
        for _ in range(2):
            began = time.perf_counter()
            state = sample(self.models, [sentence], Sampling(seed=1), chunks=3)
            for piece in decode_history(self.models.vae, state):
                piece.cpu()
        return {f"3 chunks at {SIDE} x {SIDE} (s)": time.perf_counter() - began}

    def measure(self, section: str) -> Table:
        """The table of one of SECTIONS, with None for NaN/Inf."""
        table = getattr(self, {"long": "long_streams"}.get(section, section))()
        return {
            key: value if value is not None and math.isfinite(value) else None for key, value in table.items()
        }

    def sheets(self) -> dict[str, Image.Image]:
        """Contact sheets by name, of the clips that were sampled."""
        sheets = {}
        if "clips" in self.__dict__:
            texts = [
                f"{story.shots[0].sentence}   [{_verdict(answer)}]"
                for story, answer in zip(self.stories, self.answers, strict=True)
            ]
            scores = [self._score(b) for b in range(len(texts))]
            worst = sorted(range(len(texts)), key=scores.__getitem__)[:SHOWN]
            for name, rows in (("clips", range(min(SHOWN, len(texts)))), ("worst", worst)):
                sheets[name] = contact_sheet(
                    [self.clips.stills[b] for b in rows], [texts[b] for b in rows], every=1
                )
        if "long_clips" in self.__dict__:
            rows = self.long_clips.stills[:SHOWN]
            stories = held_out_stories(len(rows), self.long)
            sheets["long"] = contact_sheet(
                list(rows), [story.shots[0].sentence for story in stories], every=5
            )
        return sheets

    def _score(self, clip: int) -> float:
        """Higher is better: words obeyed, less the error at the first border."""
        error = border_error(self.clips.detections.of(clip), FIRST_CHUNK) if self.chunks > 1 else 0.0
        return sum(self.answers[clip]) - (1.0 if math.isnan(error) else min(1.0, error / 20))

    def _answers(self, clips: Watched) -> list[Obeyed]:
        return [
            obeyed(story.shots[0], clips.detections.of(b), frames_of_shot(story, 0, self.chunks))
            for b, story in enumerate(self.stories)
        ]

    def _sampled(self, stories: Sequence[Story], chunks: int, **options) -> Watched:
        """Clips of stories of one sentence."""
        parts = []
        for seed, some in self._batches(stories):
            state = sample(self.models, _sentences(some, 0), Sampling(seed=seed, **options), chunks=chunks)
            parts.append(watch_state(self.models, state))
        return Watched.joined(parts, dim=0)

    def _dropped(self) -> Watched:
        """Clips whose second chunk is the first chunk of another stream with the same sentence."""
        parts = []
        for seed, some in self._batches(self.stories):
            states = [
                sample(self.models, _sentences(some, 0), Sampling(seed=seed + other), chunks=1)
                for other in (0, OTHER_SEED)
            ]
            parts.append(
                watch(chain.from_iterable(decode_history(self.models.vae, state) for state in states))
            )
        return Watched.joined(parts, dim=0)

    def _changed(self, stories: Sequence[Story], how: str) -> Watched:
        """Clips of two chunks, the second with the second sentence."""
        parts = []
        for seed, some in self._batches(stories):
            state: StreamState | None = None
            for chunk in (0, 1):
                sampling = Sampling(seed=seed, on_prompt_change=how)
                state = sample(self.models, _sentences(some, chunk), sampling, chunks=1, state=state)
            assert state is not None
            parts.append(watch_state(self.models, state))
        return Watched.joined(parts, dim=0)

    def _batches(self, stories: Sequence[Story]) -> Iterable[tuple[int, Sequence[Story]]]:
        """(seed, stories): clip number i has the seed 1 + i with any batch size."""
        for first in range(0, len(stories), self.batch):
            yield 1 + first, stories[first : first + self.batch]


def _sentences(stories: Sequence[Story], chunk: int) -> list[str]:
    return [story.shot_of(chunk).sentence for story in stories]


def _word(shot, word: str) -> str:
    return shot.final_colour if word == "colour" else shot.motion


def _verdict(answer: Obeyed) -> str:
    return (
        "all right" if answer.all else "wrong: " + ", ".join(k for k, v in answer._asdict().items() if not v)
    )
