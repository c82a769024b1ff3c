"""A story decoded to frames: scene by scene, as the frames are ready, at constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from .errors import ChunkError
from .host import Host, Progress
from .state import Chunk, StreamState
from .vae_tiling import Tiling
from .wan_vae import WanVAE, to_vae_space


@torch.no_grad()
def decode_story(
    vae: WanVAE,
    state: StreamState,
    *,
    from_chunk: int = 0,
    tiling: Tiling | None = None,
    host: Host | None = None,
) -> Iterator[Tensor]:
    """Frames [B, 3, n, H, W] in [-1, 1] of the chunks from number `from_chunk` (counted from 0) on.

    Earlier chunks of the same scene go through the decoder too, because its causal cache reaches back to the scene's
    first frame; their frames are dropped. So a continued chunk gives the same frames as one decode of the whole.
    """
    host = host or Host()
    numbered = list(enumerate(state.story))
    for _, group in groupby(numbered, key=lambda item: item[1].scene):
        chunks = list(group)
        if chunks[-1][0] < from_chunk:
            continue
        yield from _decode_scene(vae, chunks, from_chunk, len(numbered), tiling, host)


def _decode_scene(
    vae: WanVAE,
    chunks: list[tuple[int, Chunk]],
    from_chunk: int,
    total: int,
    tiling: Tiling | None,
    host: Host,
) -> Iterator[Tensor]:
    dropped = sum(chunk.length for number, chunk in chunks if number < from_chunk)
    places = [(number, step + 1, chunk.length) for number, chunk in chunks for step in range(chunk.length)]
    device = next(vae.parameters()).device
    pieces = (to_vae_space(chunk.latents.to(device)) for _, chunk in chunks)
    frames = vae.decode_stream(pieces, tiling=tiling)
    for done, (number, step, length) in enumerate(places):
        host.check(f"while chunk {number + 1} of {total} was decoded")
        pixels = next(frames)  # one latent frame's
        if not bool(torch.isfinite(pixels).all()):
            raise ChunkError(
                f"The VAE returned values that are not numbers in chunk {number + 1} of {total}; the frames before it are kept. "
                "Try it in float32 or bfloat16, or copy its file again."
            )
        host.progress(Progress(number + 1, total, step, length, None))
        if done >= dropped:
            yield pixels
