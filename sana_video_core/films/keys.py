"""Names of chunks: sha256 over all that decides a chunk's bits, and nothing else.

The schema is closed. A key hashes every field of its dataclass, so a field can't be forgotten; what isn't a
field (a file's name, a preview) can't change a key. A chunk's key holds the one before it, up to the root of
its scene, and never one of an earlier scene.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from hashlib import sha256

import torch
from torch import Tensor

from ..config import PROMPT_CHANGES, check_choice

SCHEMA = 1  # raise it when a field changes its meaning
PRIMED = "primed"
ENTRIES = ("start", "same", *(change for change in PROMPT_CHANGES if change != "cut"), PRIMED)


class _Schema:
    """What keys of all kinds share."""

    @property
    def key(self) -> str:
        """Hex sha256 of the fields, as canonical JSON."""
        return self._hashed(type(self).__name__)

    def _hashed(self, what: str) -> str:
        names = [field.name for field in fields(self)]  # pyright: ignore[reportArgumentType]
        values = {name: _plain(getattr(self, name)) for name in names}
        return json_digest({"schema": SCHEMA, "what": what, "fields": values})


@dataclass(frozen=True, kw_only=True)
class Root(_Schema):
    """Where a scene begins."""

    family: str
    rows: int  # of latents
    columns: int
    channels: int
    batch: int
    window: int | None  # earlier chunks that the memory looks back on; None for all
    first: int  # the chunk rule, in latent frames
    following: int
    tensors: str | None = None  # `tensors_digest` of a state that came without names of its chunks

    @property
    def anywhere(self) -> str:
        """As `Link.anywhere`: a root has no compute tag."""
        return self.key


@dataclass(frozen=True, kw_only=True)
class Link(_Schema):
    """One chunk: what came before, and all that made it."""

    before: str  # key of the chunk before it in its scene, or of the scene's root
    entry: str  # one of `ENTRIES`: what happened, not what a widget says
    length: int  # latent frames
    embedding: str  # `tensors_digest` of the masked embedding as the model is fed
    model: str  # content of the file
    compute: str  # `compute_tag`
    loras: tuple[tuple[str, float], ...] = ()  # content and strength, in order
    # of a chunk that was sampled
    seed: int | None = None
    sampler: str | None = None
    steps: int | None = None
    shift: float | None = None
    rule: str | None = None
    absorb: str | None = None
    # of a primed chunk
    latents: str | None = None  # `tensors_digest` of its latents

    def __post_init__(self) -> None:
        loras = tuple((content, float(strength)) for content, strength in self.loras)
        object.__setattr__(self, "loras", loras)
        object.__setattr__(self, "shift", None if self.shift is None else float(self.shift))
        check_choice("entry", self.entry, ENTRIES)
        how = (self.seed, self.sampler, self.steps, self.shift, self.rule, self.absorb)
        expected, other = ((self.latents,), how) if self.entry == PRIMED else (how, (self.latents,))
        if None in expected or any(value is not None for value in other):
            raise ValueError(f"“{self.entry}” doesn't go with {how} and the latents {self.latents}")

    def anywhere(self, before: str) -> str:
        """The key with every compute tag of the chain left out; `before` is that of what came before."""
        return replace(self, before=before, compute="")._hashed("Link anywhere")


@dataclass(frozen=True, kw_only=True)
class SegmentKey(_Schema):
    """One chunk as a piece of an encoded film.

    Where the decoder began isn't part of it: it is warmed over its whole reach, so the frames are the same.
    """

    chunk: str  # its key
    vae: str  # content of the file
    vae_dtype: str
    tiling: str  # as asked for; what fell back to tiles when memory was short isn't kept
    kernels: str  # of the decoder
    compute: str  # `compute_tag` of the decoder
    fps: Fraction
    codec: str
    crf: int | None
    row: int  # of the batch
    encoder: str  # version of libav's encoder

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", Fraction(self.fps))


@dataclass(frozen=True, kw_only=True)
class TextKey(_Schema):
    """A text as an encoder reads it."""

    text: str  # stripped, as it is read
    encoder: str  # content of the file or folder
    compute: str  # `compute_tag` of the encoder
    system_prompt: str  # sha256 of what comes before the text; "" for nothing
    motion_score: int  # 0 for none


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 of named tensors: names, dtypes, shapes and bytes, in any order."""
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def json_digest(value: object) -> str:
    """Hex sha256 of plain values, as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    """A field in JSON, in its one spelling. Raises TypeError for what has more than one."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Fraction):
        return {"fraction": str(value)}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    raise TypeError(f"{value!r} has no place in a key")
