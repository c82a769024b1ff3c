"""What a state holds, as text and as a filmstrip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from textwrap import shorten

from PIL import Image
from torch import Tensor

from ..config import STREAM_RULES
from ..files.filmstrip import filmstrip_of
from .state import Story, StreamState

MOST = 6  # thumbnails of a filmstrip, so that they can be read on a node
ENDS = 10  # prompts at the beginning and the end of a long stream that a short text names
LETTERS = 100  # of each of these prompts


def bytes_of_history(state: Story) -> int:
    """Of all chunks, and of each text once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.story_tensors())


def report(state: Story) -> str:
    """What a state holds, as text: one line each for model, video, memory and every chunk."""
    identity = state.identity
    height, width = identity.rules.compression.pixels(identity.grid)
    lines = [
        f"model        {identity.family}, fingerprint {identity.fingerprint[:12]}",
        f"video        {width} x {height}, batch {identity.batch}, {len(state.history)} chunks, "
        f"{state.frames} frames ({state.frames / identity.rules.fps:.1f} s)",
        f"memory       {_memory(state)}, window {identity.window or 'none (the whole past)'}; "
        f"history {bytes_of_history(state) / 2**20:.1f} MiB",
    ]
    for number, chunk in enumerate(state.history):
        made = "primed" if chunk.primed else f"seed {chunk.seed}"
        made += "" if chunk.rule == STREAM_RULES[0] else f", rule {chunk.rule}"
        loras = f", LoRAs {', '.join(chunk.loras)}" if chunk.loras else ""
        lines.append(
            f"chunk {number:<6} scene {chunk.scene}, {chunk.length} latent frames, "
            f"{made}{loras}: {chunk.prompt}"
        )
    return "\n".join(lines)


def brief(state: Story) -> list[str]:
    """What a state holds, in short: a line for all of it, and one for every prompt with its chunks."""
    lines = [f"{_length(state)} · memory {_memory(state)} · model {state.identity.fingerprint[:12]}"]
    told = zip(_labels(state), state.history, strict=True)
    chunks = []
    for prompt, same in groupby(told, key=lambda entry: entry[1].prompt):
        labels = [label for label, _ in same]
        name = labels[-1]
        if len(labels) > 1:
            first = labels[0].removeprefix("chunk ").split(" · ")[0]
            name = f"chunks {first} to {name.removeprefix('chunk ')}"
        chunks.append(f"{name}: {shorten(prompt, LETTERS, placeholder=' …')}")
    if len(chunks) > 2 * ENDS:
        chunks = [*chunks[:ENDS], f"… {len(chunks) - 2 * ENDS} more …", *chunks[-ENDS:]]
    return lines + chunks


def _memory(state: Story) -> str:
    """Its size; a light state has none until somebody goes on from it."""
    return f"{state.bytes / 2**20:.1f} MiB" if isinstance(state, StreamState) else "none (history only)"


def _length(state: Story) -> str:
    height, width = state.identity.rules.compression.pixels(state.identity.grid)
    chunks = f"{len(state.history)} chunk{'s' * (len(state.history) != 1)}"
    return f"{chunks} · {state.frames} frames · {state.seconds:.1f} s · {width} x {height}"


def _labels(state: Story) -> list[str]:
    """A name for each chunk, with the seconds of video up to its end."""
    rules, labels = state.identity.rules, []
    frames = scene = length = 0
    for number, chunk in enumerate(state.history):
        if chunk.scene != scene:
            scene, length = chunk.scene, 0
        frames += rules.compression.frames(length + chunk.length) - rules.compression.frames(length)
        length += chunk.length
        labels.append(f"chunk {number} · {frames / rules.fps:.1f} s")
    return labels


def filmstrip(state: Story, picture: Callable[[Tensor], Image.Image]) -> Image.Image:
    """What a state holds, as a picture for a node: its length and size, and at most `MOST` chunks with their
    prompts, the first and the last among them.

    `picture` is the host's quick preview of one latent frame [B, C, 1, H, W] in model space.
    """
    chunks, labels = state.history, _labels(state)
    last = len(chunks) - 1
    shown = range(last + 1) if last < MOST else [round(i * last / (MOST - 1)) for i in range(MOST)]
    cells = []
    for number in shown:
        middle = chunks[number].length // 2
        thumbnail = picture(chunks[number].latents[:, :, middle : middle + 1])
        cells.append((thumbnail, labels[number], chunks[number].prompt))
    return filmstrip_of([_length(state)], cells)


def stream_metadata(state: Story, from_chunk: int, frames: int) -> dict[str, object]:
    """Of the first `frames` of a film of the chunks from number `from_chunk` (counted from 0) on."""
    shorter = (
        replace(state, history=state.history[:end]) for end in range(from_chunk + 1, len(state.history))
    )
    state = next((part for part in shorter if part.frames_from(from_chunk) >= frames), state)
    return {
        "prompts": [chunk.prompt for chunk in state.history[from_chunk:]],
        "seeds": [chunk.seed for chunk in state.history[from_chunk:]],
        "loras": [list(chunk.loras) for chunk in state.history[from_chunk:]],
        "plan": state.plan,
        "from_chunk": from_chunk,
        "model": {"family": state.identity.family, "fingerprint": state.identity.fingerprint},
    }
