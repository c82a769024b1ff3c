"""What the network refuses before any work, and the padding that it need not read."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TransformerConfig
from ..errors import InputError, StateError
from ..shapes import LatentGrid
from .memory import Memory


def check_text(text: Tensor, mask: Tensor | None, channels: int) -> None:
    if text.ndim != 3 or text.shape[2] != channels:
        raise InputError(
            f"Text embeddings of shape {list(text.shape)} were given; this model takes [batch, tokens, {channels}]. "
            "Use the text encoder that belongs to it (Gemma-2-2B for SANA-Video)."
        )
    if mask is not None and mask.shape != text.shape[:2]:
        raise InputError(
            f"The text mask has shape {list(mask.shape)}, but the embeddings are {list(text.shape[:2])} "
            "(batch, tokens). Give one mask entry for each token."
        )


def without_padding(text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Text without the columns that are padding in every row, and no mask where that was all of it.

    Padding weighs nothing (exp of MASKED is zero in every dtype), but attention with a mask takes half as long again.
    A row without any text keeps all of it: it attends to its padding.
    """
    if mask is None or torch.compiler.is_compiling():
        return text, mask
    kept = mask.to(torch.bool).cpu()
    lengths = kept.sum(dim=1)
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest == 0 or not torch.equal(kept, torch.arange(kept.shape[1]) < lengths[:, None]):
        return text, mask
    return text[:, :longest], None if shortest == longest else mask[:, :longest]


def check_memory(memory: Memory, config: TransformerConfig, batch: int, grid: LatentGrid) -> None:
    """A memory of another model, size or batch would fail deep inside, or not at all."""
    heads, head = config.heads, config.head_dim
    expected = (config.depth, [batch, heads, head, head], [batch, config.width, 1, grid.area])
    sums, tail = (list(memory[0].past.vk.shape), list(memory[0].tail.shape)) if memory else ([], [])
    given = (len(memory), sums, tail)
    if given != expected:
        raise StateError(
            f"This memory has {given[0]} blocks, sums {given[1]} and tails {given[2]}; the model with these latents "
            f"needs {expected[0]}, {expected[1]} and {expected[2]}. It was made by another model, size or batch."
        )
