"""Stories as training data: encoded once, with the sentence of every chunk as tokens.

N stories, K chunks, F latent frames, L tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sana_video_core.config import WAN_2_1
from ..sana_video_core.text.encoder import TextEncoder, motion_suffix
from ..sana_video_core.vae.statistics import to_model_space
from ..sana_video_core.vae.wan_vae import WanVAE
from .drawing import draw_pieces
from .scenes import Story, Track, random_story, track

FIRST, NEXT = 11, 10  # latent frames of a chunk
TOKENS = 32  # the longest sentence has fewer
MOTION_SCORES = (None, None, 10, 20, 30)  # what a text node may append to a sentence
BATCH = 64  # stories that are drawn and encoded at a time


@dataclass(frozen=True)
class Clips:
    """N stories in model space."""

    latents: Tensor  # [N, 16, F, H, W] bfloat16
    tokens: Tensor  # [N, K, L] of each chunk's sentence
    mask: Tensor  # [N, K, L] true where there is text

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def chunks(self) -> int:
        return self.tokens.shape[1]

    def chunk(self, rows: Tensor, number: int) -> Tensor:
        """The latents of one chunk of some stories [B, 16, 10 or 11, H, W], float32."""
        start, length = chunk_place(number)
        return self.latents[rows, :, start : start + length].float()


def chunk_place(number: int) -> tuple[int, int]:
    """(first latent frame, latent frames) of a chunk."""
    return (0, FIRST) if number == 0 else (FIRST + NEXT * (number - 1), NEXT)


def tokens_of(encoder: TextEncoder, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids [N, L] and mask [N, L] of these texts as the encoder makes them, without its long padding."""
    ids = torch.full((len(texts), TOKENS), encoder.tokenizer.pad_token_id)
    mask = torch.zeros(len(texts), TOKENS, dtype=torch.bool)
    for row, text in enumerate(texts):
        words = encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        words = [encoder.tokenizer.bos_token_id, *words]
        ids[row, : len(words)], mask[row, : len(words)] = torch.tensor(words), True
    return ids, mask


@torch.no_grad()
def make_clips(
    vae: WanVAE, encoder: TextEncoder, *, seed: int, count: int, chunks: int, side: int, device: torch.device
) -> Clips:
    """`count` stories from seed `seed` on, drawn and encoded on `device` in batches that fit in memory."""
    stories = [random_story(seed + i, chunks) for i in range(count)]
    words = [sentence(story, chunk) for story in stories for chunk in range(chunks)]
    ids, mask = tokens_of(encoder, words)
    path = track(stories, chunks)
    parts = (Track(*(x[i : i + BATCH] for x in path)) for i in range(0, count, BATCH))
    latents = [_encoded(vae, part, side, device) for part in parts]
    shape = (count, chunks, TOKENS)
    return Clips(torch.cat(latents), ids.view(shape).to(device), mask.view(shape).to(device))


def sentence(story: Story, chunk: int) -> str:
    """The sentence of a chunk, followed by one of several motion scores, the same for the whole shot."""
    shot = story.shot_of(chunk)
    score = random.Random(f"score {story.seed} {shot.sentence}").choice(MOTION_SCORES)
    return shot.sentence + motion_suffix(score)


def _encoded(vae: WanVAE, path: Track, side: int, device: torch.device) -> Tensor:
    """Latents [B, 16, F, H, W] in model space, bfloat16."""
    dtype, cache, moments = vae.conv1.weight.dtype, None, []
    layout = torch.channels_last_3d if device.type == "cuda" else torch.contiguous_format
    for pixels in draw_pieces(path, side, side, 40, device):
        x, cache = vae.encoder(pixels.to(dtype).contiguous(memory_format=layout), cache)
        moments.append(x)
    means = vae.conv1(torch.cat(moments, dim=2))[:, : vae.config.latent_channels]
    return to_model_space(means, WAN_2_1).bfloat16()
