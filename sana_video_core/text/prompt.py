"""Prompts: what a model reads of a text, and the digest by which a change of prompt is seen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """An encoded text."""

    embeddings: Tensor  # [1 or B, L, caption channels]
    mask: Tensor | None  # [1 or B, L], true where there is text
    digest: str  # of prompt_digest, or of embedding_digest where the text is unknown
    text: str = ""


class PromptEncoder(Protocol):
    """`TextEncoder`, or a host's own."""

    def resolve_system_prompt(self, system_prompt: bool | str | None) -> str | None: ...
    def encode(
        self, prompts: str, *, system_prompt: str | None, motion_score: int | None
    ) -> tuple[Tensor, Tensor]: ...


def encode_prompt(
    encoder: PromptEncoder,
    text: str,
    *,
    system_prompt: bool | str | None = True,
    motion_score: int | None = None,
) -> Prompt:
    """One text as a model reads it.

    `system_prompt`: True is the original's, False or None is none, a text is itself.
    """
    used = encoder.resolve_system_prompt(system_prompt)
    embeddings, mask = encoder.encode(text, system_prompt=used, motion_score=motion_score)
    digest = prompt_digest(text, system_prompt=used, motion_score=motion_score)
    return Prompt(embeddings=embeddings, mask=mask, digest=digest, text=text.strip())


def motion_suffix(score: int | None) -> str:
    """What follows the prompt. None and 0 add nothing; 30 is strong, and LongSANA was trained with 10."""
    if score is None:
        return ""
    if isinstance(score, bool) or not isinstance(score, int) or score < 0:
        raise InputError(
            "The motion score must be a whole number from 0 (say nothing about motion) upwards, and "
            f"{score!r} was given. Usual values are 10 to 30."
        )
    return f" motion score: {score}." if score else ""


def prompt_digest(text: str, *, system_prompt: str | None, motion_score: int | None) -> str:
    """sha256 (hex) of everything that decides what a prompt encodes to, apart from the encoder itself.

    `system_prompt` is the one really used, as `resolve_system_prompt` returns it.
    """
    used = hashlib.sha256(system_prompt.encode("utf-8", "surrogatepass")).hexdigest() if system_prompt else ""
    # JSON quotes the text, so no text can imitate the fields that follow it.
    return hashlib.sha256(json.dumps([text.strip(), used, motion_score or 0]).encode("ascii")).hexdigest()


def embedding_digest(embeddings: Tensor, mask: Tensor | None) -> str:
    """sha256 (hex) of what a model reads of foreign embeddings: the rows [L, D] of each video where the mask
    is true.

    embeddings [B, L, D] of any dtype and device, read as float32; mask [B, L], or of one row for all, with
    any axes of length 1 between (None: every row counts). How the rest is padded doesn't matter, how long it
    is does.
    """
    if embeddings.ndim != 3 or not embeddings.is_floating_point():
        raise InputError(
            "Text embeddings have the shape [batch, tokens, width], and a tensor of "
            f"{list(embeddings.shape)} ({str(embeddings.dtype).removeprefix('torch.')}) was given. Connect "
            "what a text encoder made."
        )
    B, L, _ = embeddings.shape
    kept = torch.ones(1, L, dtype=torch.bool) if mask is None else mask.detach().to("cpu") != 0
    if kept.ndim == 0 or kept.shape[-1] != L or kept.numel() not in (L, B * L):
        raise InputError(
            f"The mask of the text embeddings has the shape {list(kept.shape)}, but for embeddings of "
            f"{list(embeddings.shape)} it must be [{B}, {L}] or [1, {L}]."
        )
    kept = kept.reshape(-1, L).expand(B, L)
    rows = embeddings.detach().to("cpu", torch.float32)[kept]
    digest = hashlib.sha256(json.dumps(list(embeddings.shape)).encode("ascii"))
    for part in (kept.to(torch.uint8), rows):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
