"""Samples streams of a demo set in batches, and measures them while they are decoded, to save memory.

B clips, T frames. Each row of a batch has the noise of a single stream, so a clip doesn't depend on its
batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..demo.model_set import DemoSet
from ..sana_video_core.checkpoints.checkpoint import load_transformer
from ..sana_video_core.streaming.decoding import decode_history
from ..sana_video_core.streaming.state import StreamState
from ..sana_video_core.streaming.stream import Sampling, extend, start
from ..sana_video_core.text.encoder import TextEncoder, load_text_encoder
from ..sana_video_core.text.prompt import Prompt, prompt_digest
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.vae.wan_vae import WanVAE
from .measures import frame_changes, light
from .tracker import Detections, find, join
from .vae import load_wan

SIDE = 128  # pixels of a picture, both ways
TOGETHER = 40  # frames that are measured at a time
EVERY = 8  # one frame in so many is kept to be shown


class Models(NamedTuple):
    """A demo set, loaded."""

    transformer: SanaVideo
    vae: WanVAE
    encoder: TextEncoder
    device: torch.device


@dataclass(frozen=True)
class Watched:
    """What is kept of B clips of T frames, on the CPU."""

    detections: Detections
    changes: Tensor  # [B, T] mean absolute difference to the frame before
    brightness: Tensor  # [B, T]
    saturation: Tensor  # [B, T]
    stills: Tensor  # [B, 3, T / EVERY, H, W] in [-1, 1], float16

    @classmethod
    def joined(cls, parts: Sequence[Watched], dim: int) -> Watched:
        """Concatenated along clips (0) or frames (1)."""
        return cls(
            join([part.detections for part in parts], dim),
            torch.cat([part.changes for part in parts], dim),
            torch.cat([part.brightness for part in parts], dim),
            torch.cat([part.saturation for part in parts], dim),
            torch.cat([part.stills for part in parts], 2 * dim),
        )


def load(paths: DemoSet, device: torch.device | str) -> Models:
    """The models of a set, in float32."""
    transformer = load_transformer(paths.transformer, device=device, dtype=torch.float32)
    return Models(
        cast(SanaVideo, transformer),  # the demo's
        load_wan(paths.vae, device=device, dtype=torch.float32),
        load_text_encoder(paths.text_encoder, device=device, dtype=torch.float32),
        torch.device(device),
    )


def prompt_of(models: Models, sentences: Sequence[str]) -> Prompt:
    """B sentences as one prompt for a stream of batch B."""
    embeddings, mask = models.encoder.encode(list(sentences), system_prompt=False)
    words = "\n".join(sentences)
    digest = prompt_digest(words, system_prompt=None, motion_score=None)
    return Prompt(embeddings=embeddings, mask=mask, digest=digest, text=words)


def sample(
    models: Models,
    sentences: Sequence[str],
    sampling: Sampling,
    *,
    chunks: int,
    state: StreamState | None = None,
) -> StreamState:
    """The state after `chunks` more chunks with these sentences, of a new stream or of the one of `state`."""
    if state is None:
        state = start(models.transformer, height=SIDE, width=SIDE, batch=len(sentences))
    prompt = prompt_of(models, sentences)
    for newer in extend(models.transformer, state, prompt, sampling, chunks=chunks, device=models.device):
        state = newer
    return state


def watch_state(models: Models, state: StreamState) -> Watched:
    """Decode all frames of a stream and measure them."""
    return watch(decode_history(models.vae, state))


@torch.no_grad()
def watch(pieces: Iterable[Tensor]) -> Watched:
    """Measure frames that come in pieces [B, 3, any, H, W]."""
    parts: list[Watched] = []
    last: Tensor | None = None
    for frames in _bundles(pieces):
        before = frames[:, :, :1] if last is None else last
        made = sum(part.changes.shape[1] for part in parts)
        brightness, saturation = light(frames)
        parts.append(
            Watched(
                find(frames),
                frame_changes(torch.cat([before, frames], dim=2))[:, 1:].cpu(),
                brightness.cpu(),
                saturation.cpu(),
                frames[:, :, -made % EVERY :: EVERY].half().cpu(),
            )
        )
        last = frames[:, :, -1:]
    return Watched.joined(parts, dim=1)


def _bundles(pieces: Iterable[Tensor]) -> Iterable[Tensor]:
    """The same frames, at least TOGETHER at a time."""
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(part.shape[2] for part in waiting) >= TOGETHER:
            yield torch.cat(waiting, dim=2)
            waiting = []
    if waiting:
        yield torch.cat(waiting, dim=2)
