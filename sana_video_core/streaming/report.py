"""What a state holds, as text and as a filmstrip."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from torch import Tensor

from ..config import STREAM_RULES
from ..files.image_file import captioned, sheet_of
from .state import StreamState

MOST, COLUMNS = 24, 3  # thumbnails of a filmstrip


def report(state: StreamState) -> str:
    """What a state holds, as text: one line each for model, video, memory and every chunk."""
    identity = state.identity
    height, width = identity.rules.compression.pixels(identity.grid)
    history = sum(chunk.latents.numel() * chunk.latents.element_size() for chunk in state.history)
    lines = [
        f"model        {identity.family}, fingerprint {identity.fingerprint[:12]}",
        f"video        {width} x {height}, batch {identity.batch}, {len(state.history)} chunks, "
        f"{state.frames} frames ({state.frames / identity.rules.fps:.1f} s)",
        f"memory       {state.bytes / 2**20:.1f} MiB, window {identity.window or 'none (the whole past)'}; "
        f"history {history / 2**20:.1f} MiB",
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


def filmstrip(state: StreamState, picture: Callable[[Tensor], Image.Image]) -> Image.Image:
    """What a state holds, as a picture: two lines of text, and labelled thumbnails of at most `MOST` chunks.

    `picture` is the host's quick preview of one latent frame [B, C, 1, H, W] in model space.
    """
    height, width = state.identity.rules.compression.pixels(state.identity.grid)
    lines = [
        f"{len(state.history)} chunks, {state.frames} frames, {state.seconds:.1f} s",
        f"{width} x {height}, memory {state.bytes / 2**20:.1f} MiB, model {state.identity.fingerprint[:12]}",
    ]
    shown = range(0, len(state.history), -(-len(state.history) // MOST) or 1)
    cells = []
    for number in shown:
        chunk = state.history[number]
        middle = chunk.length // 2
        cells.append((f"{number}: {chunk.prompt}", picture(chunk.latents[:, :, middle : middle + 1])))
    return captioned(sheet_of(cells, columns=COLUMNS) if cells else None, lines)
