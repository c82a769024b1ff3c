"""Encoded prompts, and the digests that show a change of prompt."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from .advice import said_of_unread, warn_of_syntax

logger = logging.getLogger("sana_video")
SIZE_FLAGS = re.compile("--(?:aspect_ratio|ar|hw)")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """An encoded text."""

    embeddings: Tensor  # [1 or B, L, caption channels]
    mask: Tensor | None  # [1 or B, L], true where there is text
    digest: str  # by prompt_digest, or embedding_digest if the text is unknown
    text: str = ""
    unread: tuple[str, ...] = ()  # sentences about what of it had no effect


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
    """Encode one text. `system_prompt`: True is the original's, False or None is none, a text is itself."""
    text = without_size(text)
    warn_of_syntax(text)
    used = encoder.resolve_system_prompt(system_prompt)
    with said_of_unread() as said:
        embeddings, mask = encoder.encode(text, system_prompt=used, motion_score=motion_score)
    digest = prompt_digest(text, system_prompt=used, motion_score=motion_score)
    return Prompt(embeddings=embeddings, mask=mask, digest=digest, text=text, unread=tuple(said))


def without_size(text: str) -> str:
    """The stripped text up to the first flag for a size (--ar 16:9), where the original ends it, too.

    Source: prepare_prompt_ar in diffusion/model/utils.py. A warning says what was left out.
    """
    flag = SIZE_FLAGS.search(text)
    if flag is None:
        return text.strip()
    logger.warning(
        "“%s” was left out of the prompt, as in the original: the size is not set there, but by width and "
        "height. If these are words of the prompt, write them without the two dashes.",
        text[flag.start() :].strip(),
    )
    return text[: flag.start()].strip()


def motion_suffix(score: int | None) -> str:
    """What is added to a prompt, nothing for None and 0. LongSANA was trained with 10; 30 is strong."""
    if score is None:
        return ""
    if isinstance(score, bool) or not isinstance(score, int) or score < 0:
        raise InputError(
            "The motion score must be a whole number from 0 (say nothing about motion) upwards, "
            f"and {score!r} was given. Usual values are 10 to 30."
        )
    return f" motion score: {score}." if score else ""


def prompt_digest(text: str, *, system_prompt: str | None, motion_score: int | None) -> str:
    """sha256 (hex) of everything that decides what a prompt encodes to, apart from the encoder itself.

    `system_prompt` is what `resolve_system_prompt` returned.
    """
    used = hashlib.sha256(system_prompt.encode("utf-8", "surrogatepass")).hexdigest() if system_prompt else ""
    # JSON quotes the text, so it cannot imitate the fields after it
    return hashlib.sha256(json.dumps([text.strip(), used, motion_score or 0]).encode("ascii")).hexdigest()


def embedding_digest(embeddings: Tensor, mask: Tensor | None) -> str:
    """sha256 (hex) of what a model reads of foreign embeddings: the rows [L, D] that the mask keeps.

    embeddings [B, L, D] of any dtype and device are read as float32. The mask is [B, L], or one row for all,
    with any axes of length 1 between; None keeps every row. The padding's length counts, but not its content.
    """
    if embeddings.ndim != 3 or not embeddings.is_floating_point():
        raise InputError(
            "Text embeddings have the shape [batch, tokens, width], and a tensor "
            f"of {list(embeddings.shape)} ({str(embeddings.dtype).removeprefix('torch.')}) was given. "
            "Connect what a text encoder made."
        )
    B, L, _ = embeddings.shape
    kept = torch.ones(1, L, dtype=torch.bool) if mask is None else mask.detach().to("cpu") != 0
    if kept.ndim == 0 or kept.shape[-1] != L or kept.numel() not in (L, B * L):
        raise InputError(
            f"The mask of the text embeddings has the shape {list(kept.shape)}, "
            f"but for embeddings of {list(embeddings.shape)} it must be [{B}, {L}] or [1, {L}]."
        )
    kept = kept.reshape(-1, L).expand(B, L)
    rows = embeddings.detach().to("cpu", torch.float32)[kept]
    digest = hashlib.sha256(json.dumps(list(embeddings.shape)).encode("ascii"))
    for part in (kept.to(torch.uint8), rows):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
