"""A text as a model reads it, under a name by its content."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from .prompt import Prompt


class Embedding(NamedTuple):
    """What a chunk was made under. Its content decides bits; a prompt's digest only decides changes."""

    embeddings: Tensor  # [1 or B, L, D] float32, zero where the mask is
    mask: Tensor | None  # [1 or B, L] bool, true where there is text
    content: str  # sha256 (hex) of both

    def to(self, device: torch.device | str) -> Embedding:
        mask = None if self.mask is None else self.mask.to(device)
        return Embedding(self.embeddings.to(device), mask, self.content)

    def tensors(self) -> list[Tensor]:
        return [self.embeddings] if self.mask is None else [self.embeddings, self.mask]


def embedding_of(prompt: Prompt, device: torch.device | str = "cpu") -> Embedding:
    """A prompt's, as new tensors on `device`. Padding has no weight, so it is zero here."""
    embeddings = prompt.embeddings.detach().to("cpu", torch.float32, copy=True)
    mask = None if prompt.mask is None else prompt.mask.detach().to("cpu", copy=True) != 0
    if mask is not None:
        padding = ~mask & mask.any(dim=1, keepdim=True)  # a row without any text attends to its padding
        embeddings.masked_fill_(padding[:, :, None], 0)
    return named_embedding(embeddings.contiguous(), mask).to(device)


def named_embedding(embeddings: Tensor, mask: Tensor | None) -> Embedding:
    """With the name of this content; the tensors are on the CPU."""
    digest = hashlib.sha256(repr((list(embeddings.shape), mask is not None)).encode("ascii"))
    for part in (embeddings, mask):
        if part is not None:
            digest.update(part.contiguous().numpy().tobytes())
    return Embedding(embeddings, mask, digest.hexdigest())
