"""Prompts from the store, and those that it doesn't have from the encoder.

So a film whose chunks are all known needs no encoder at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from ..errors import FileError
from ..text.advice import warn_of_syntax
from ..text.embedding import Embedding, embedding_of, named_embedding
from ..text.prompt import Prompt, prompt_digest, without_size
from .contents import content_of
from .keys import TextKey
from .layout import KEY
from .store import Store

logger = logging.getLogger("sana_video")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How texts are read: all that decides their embeddings, besides the words."""

    encoder: str | None  # content of the encoder's file or folder; None if nobody knows it
    compute: str  # `compute_tag` of the encoder
    system_prompt: str | None  # as `resolve_system_prompt` returned it
    motion_score: int | None

    def key(self, text: str) -> str | None:
        """What a store has a text under; None if the encoder is unknown."""
        if self.encoder is None:
            return None
        before = self.system_prompt or ""
        return TextKey(
            text=text.strip(),
            encoder=self.encoder,
            compute=self.compute,
            system_prompt=sha256(before.encode("utf-8", "surrogatepass")).hexdigest() if before else "",
            motion_score=self.motion_score or 0,
        ).key


def encoder_content(
    path: Path, store: Store, progress: Callable[[int, int], None] = lambda done, total: None
) -> str | None:
    """Content of an encoder's file or folder, or None with a warning if it can't be read any more."""
    try:
        return content_of(path, store, progress)
    except FileError as error:
        logger.warning("%s Until then, prompts are encoded again each time.", error)
        return None


def prompts_of(
    store: Store | None, texts: Sequence[str], reading: Reading, encode: Callable[[list[str]], list[Prompt]]
) -> list[Prompt]:
    """Texts as prompts, with embeddings as chunks remember them: float32, on the CPU, zero in padding.

    `encode` is called once, with all texts that aren't known, or never.
    """
    texts = [without_size(text) for text in texts]
    prompts = {text: known for text in texts if (known := _known(store, text, reading)) is not None}
    if unknown := [text for text in dict.fromkeys(texts) if text not in prompts]:
        fresh = [_plain(prompt) for prompt in encode(unknown)]
        prompts |= dict(zip(unknown, fresh, strict=True))
        if store is not None:
            _keep(store, fresh, [reading.key(text) for text in unknown])
    return [prompts[text] for text in texts]


def _known(store: Store | None, text: str, reading: Reading) -> Prompt | None:
    if store is None or (key := reading.key(text)) is None or (entry := store.read("texts", key)) is None:
        return None
    embedding = stored_embedding(store, str(entry.about.get("embedding")))
    if embedding is None:
        return None
    unread = tuple(map(str, entry.about.get("unread", ())))
    warn_of_syntax(text)  # as an encoder would
    for sentence in unread:
        logger.warning("%s", sentence)
    digest = prompt_digest(text, system_prompt=reading.system_prompt, motion_score=reading.motion_score)
    tensors = {"embeddings": embedding.embeddings, "mask": embedding.mask}
    return Prompt(**tensors, digest=digest, text=text, unread=unread)


def _plain(prompt: Prompt) -> Prompt:
    """With the embedding as it is stored, so that it makes no difference where it came from."""
    embedding = embedding_of(prompt)
    return replace(prompt, embeddings=embedding.embeddings, mask=embedding.mask)


def _keep(store: Store, prompts: Iterable[Prompt], keys: Iterable[str | None]) -> None:
    try:
        for prompt, key in zip(prompts, keys, strict=True):
            embedding = embedding_of(prompt)
            write_embedding(store, embedding)
            if key is not None:
                about = {"embedding": embedding.content, "prompt": prompt.text, "unread": prompt.unread}
                store.write("texts", key, {}, about)
    except FileError as error:
        logger.warning("%s Until then, prompts are encoded again each time.", error)


def write_embedding(store: Store, embedding: Embedding) -> None:
    """Keep an embedding under its content. Raises FileError."""
    tensors = {"embeddings": embedding.embeddings}
    tensors |= {} if embedding.mask is None else {"mask": embedding.mask}
    store.write("embeddings", embedding.content, tensors, {})


def stored_embedding(store: Store, content: str) -> Embedding | None:
    """The embedding of this content, on the CPU, if the store has it."""
    if not KEY.fullmatch(content) or (entry := store.read("embeddings", content)) is None:
        return None
    embeddings, mask = entry.tensors.get("embeddings"), entry.tensors.get("mask")
    if embeddings is None or embeddings.dtype != torch.float32 or embeddings.ndim != 3:
        return None
    embedding = named_embedding(embeddings, mask)
    return embedding if embedding.content == content else None
