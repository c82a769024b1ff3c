"""Checks before any work, and the removal of the text's padding."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import TransformerConfig
from ..errors import InputError, StateError
from ..shapes import LatentGrid
from .memory import Memory, MemorySize


def check_latents(latents: Tensor, channels: int) -> None:
    if latents.ndim != 5 or latents.shape[1] != channels or not latents.numel():
        raise InputError(
            f"Latents of shape {list(latents.shape)} were given; this model takes [batch, "
            f"{channels}, latent frames, rows, columns]."
        )


def check_text(text: Tensor, mask: Tensor | None, channels: int) -> None:
    if text.ndim != 3 or text.shape[2] != channels:
        raise InputError(
            f"Text embeddings of shape {list(text.shape)} were given; this model takes [batch, tokens, "
            f"{channels}]. Use the text encoder that belongs to it (Gemma-2-2B for SANA-Video)."
        )
    if mask is not None and mask.shape != text.shape[:2]:
        raise InputError(
            f"The text mask has shape {list(mask.shape)}, but the embeddings are {list(text.shape[:2])} "
            "(batch, tokens). Give one mask entry for each token."
        )


def without_padding(text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Text without the columns that are padding in every row; no mask if that was all the padding.

    Padding has no weight (exp(MASKED) is zero in every dtype), but attention with a mask takes half as long
    again. Nothing is removed if a row has no text at all: it attends to its padding.
    """
    if mask is None or torch.compiler.is_compiling():
        return text, mask
    kept = mask.to(torch.bool).cpu()
    lengths = kept.sum(dim=1)
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest == 0 or not torch.equal(kept, torch.arange(kept.shape[1]) < lengths[:, None]):
        return text, mask
    return text[:, :longest], None if shortest == longest else mask[:, :longest]


def check_text_fits(sizes: tuple[int, int, int], required: tuple[int, int, int]) -> None:
    """Raises InputError unless a prepared text fits the call. Sizes are blocks, width and batch."""
    if sizes[:2] != required[:2]:
        raise InputError(
            f"This prepared text is for a model of {sizes[0]} blocks, {sizes[1]} wide, but the model has "
            f"{required[0]}, {required[1]} wide. Prepare the prompt with the model that uses it."
        )
    if sizes[2] not in (1, required[2]):
        raise InputError(
            f"{sizes[2]} prompts do not fit a batch of {required[2]} clips: "
            "give one prompt, or one for each clip."
        )


def check_timesteps(timesteps: Tensor, batch: int, frames: int) -> None:
    if timesteps.shape not in ((batch,), (batch, frames)):
        raise InputError(
            f"Timesteps of shape {list(timesteps.shape)} do not fit latents of {batch} clips with {frames} "
            f"latent frames: give one per clip [{batch}] or one per latent frame [{batch}, {frames}]."
        )


def timesteps_in_rows(timesteps: Tensor, batch: int, frames: int, grid: LatentGrid) -> Tensor:
    """Timesteps of one per clip, latent frame or token as rows: [B, 1], [B, F] or [B, N].

    An axis of one channel may follow the batch, as the original has it: [B, 1, F] and [B, 1, F, H, W]. Raises
    InputError for other shapes.
    """
    if timesteps.ndim in (3, 5) and timesteps.shape[1] == 1:
        timesteps = timesteps.squeeze(1)
    if timesteps.shape not in ((batch,), (batch, frames), (batch, frames, *grid)):
        raise InputError(
            f"Timesteps of shape {list(timesteps.shape)} do not fit latents of {batch} clips with {frames} "
            f"latent frames: give one per clip [{batch}], one per latent frame [{batch}, {frames}], or one "
            f"per token {[batch, frames, *grid]}."
        )
    return timesteps.reshape(batch, -1)


def check_memory(memory: Memory, config: TransformerConfig, batch: int, grid: LatentGrid) -> None:
    """Refuse a memory of another model, size or batch: it would fail deep inside, or not at all."""
    required = MemorySize(batch, config.heads, config.head_dim, grid.area)
    wrong = next((block.size for block in memory if block.size != required), None)
    if len(memory) != config.depth or wrong is not None:
        raise StateError(
            f"This memory has {len(memory)} blocks{_sizes(wrong)}; the model with these latents needs "
            f"{config.depth}{_sizes(required)}. It was made by another model, size or batch."
        )


def _sizes(size: MemorySize | None) -> str:
    if size is None:
        return ""
    return (
        f" (batch {size.batch}, {size.heads} heads of {size.head_dim}, {size.area} tokens per latent frame)"
    )
