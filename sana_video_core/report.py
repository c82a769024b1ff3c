"""What a state holds, in words and as a filmstrip."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image
from torch import Tensor

from .image_file import sheet_of
from .state import StreamState


def report(state: StreamState) -> str:
    """What a state holds, for a person: one line each for model, video, memory and every chunk."""
    own = state.identity
    height, width = own.rules.compression.pixels(own.grid)
    story = sum(chunk.latents.numel() * chunk.latents.element_size() for chunk in state.story)
    lines = [
        f"model        {own.family}, fingerprint {own.fingerprint[:12]}",
        f"video        {width} x {height}, batch {own.batch}, {len(state.story)} chunks, {state.frames} frames "
        f"({state.frames / own.rules.fps:.1f} s)",
        f"memory       {state.bytes / 2**20:.1f} MiB, window {own.window or 'none (the whole past)'}; story "
        f"{story / 2**20:.1f} MiB",
    ]
    for number, chunk in enumerate(state.story):
        made = "primed" if chunk.primed else f"seed {chunk.seed}"
        loras = f", LoRAs {', '.join(chunk.loras)}" if chunk.loras else ""
        lines.append(
            f"chunk {number:<6} scene {chunk.scene}, {chunk.length} latent frames, {made}{loras}: {chunk.prompt}"
        )
    return "\n".join(lines)


def filmstrip(state: StreamState, picture: Callable[[Tensor], Image.Image]) -> Image.Image | None:
    """One labelled thumbnail a chunk; None for an empty stream.

    `picture` makes a small picture of one latent frame [B, C, 1, H, W] in model space: a host has a quick way to.
    """
    if not state.story:
        return None
    cells = []
    for number, chunk in enumerate(state.story):
        middle = chunk.length // 2
        cells.append((f"chunk {number}", picture(chunk.latents[:, :, middle : middle + 1])))
    return sheet_of(cells)
