"""Warnings about what a prompt says in vain: words beyond the last token, syntax of other encoders."""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

PRINTABLE = "".join(map(chr, range(33, 127)))  # ASCII without the space
logger = logging.getLogger("sana_video")
SHOWN = 300  # characters of a quoted text
_said: ContextVar[list[str] | None] = ContextVar("said", default=None)
# (word:1.3), ((word)), [from:to:0.5], embedding:name, <lora:name:0.8>; not a ratio or a time of day
SYNTAX = re.compile(
    r"\([^()]*(?:[^()\d\s]\s*:\s*[+-]?\d|:\s*[+-]?\d*\.\d+)[\d.]*\s*\)"
    r"|\(\([^()]+\)\)"
    r"|\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]"
    r"|\bembedding:[^\s,]+"
    r"|<[a-z]+:[^<>]+>",
    re.IGNORECASE,
)


def warn_of_syntax(text: str) -> None:
    """Warn of weights, embeddings and LoRA tags: to this text encoder they are words like all others."""
    found = list(dict.fromkeys(match[0] for match in SYNTAX.finditer(text)))
    if found:
        logger.warning(
            "%s in the prompt: SANA-Video's text encoder reads weights, embeddings and LoRA tags as plain "
            "words, so they do nothing. Say it in words, and load a LoRA with Load SANA-Video LoRA.",
            _quoted(", ".join(found)),
        )


def warn_of_unread(text: str, suffix: str, count: Callable[[str], int], most: int) -> None:
    """Warn of the end of a prompt that the model doesn't read.

    `suffix` is the motion score after the text. `count` says how many tokens a text has; `most` are read.
    """
    tokens = count(text + suffix)
    if tokens <= most:
        return
    end = bisect_left(range(1, len(text) + 1), True, key=lambda end: count(text[:end]) > most)
    if end < len(text) and not text[end].isspace():  # to the beginning of its word, in scripts with spaces
        end = len(text[:end].rstrip(PRINTABLE))
    unread = [_quoted(text[end:].strip())] if text[end:].strip() else []
    unread += ["the motion score"] if suffix else []
    sentence = (
        f"The prompt has {tokens} tokens and the model reads {most}: {' and '.join(unread)} had no effect. "
        "Shorten it."
    )
    logger.warning("%s", sentence)
    if (said := _said.get()) is not None:
        said.append(sentence)


@contextmanager
def said_of_unread() -> Iterator[list[str]]:
    """What `warn_of_unread` says in the block, to say it again where the text needn't be read again."""
    said: list[str] = []
    token = _said.set(said)
    try:
        yield said
    finally:
        _said.reset(token)


def _quoted(text: str) -> str:
    return f"“{text}”" if len(text) <= SHOWN else f"“{text[:SHOWN]} …”"
