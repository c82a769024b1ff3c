"""Block-causal flow matching: a transformer and its text encoder learn to continue our scenes chunk by chunk.

Each chunk has its own noise level. The past comes from the real streaming memory, and gradients flow through
it. The network predicts v = noise - clean. Levels never fall from one chunk to the next (earlier chunks are
cleaner or equal), as in the original's train_video_ivjoint_chunk.py. What a chunk leaves in the memory is the
truth or, more often as training proceeds, the network's estimate: errors as sampling makes them, with the
truth as target.

B clips, K chunks, F latent frames, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..sana_video_core.sampling.schedule import few_step_sigmas, warp
from ..sana_video_core.text.encoder import TextEncoder
from ..sana_video_core.transformer.memory import Memory
from ..sana_video_core.transformer.model import PreparedText, SanaVideo
from .latents import Clips, chunk_place

GRID = few_step_sigmas(4)[:-1]  # 1, 0.96, 0.889, 0.727
OPENING = 4.0  # weight of a stream's first latent frame, from which alone the decoder makes a picture
WORDLESS = 0.1  # share of clips that are learned without their sentence, so that guidance works
RECACHED = 0.5  # share of the changes of sentence; the others keep the memory as it is
SMEAR = 0.08  # the largest noise level on what the memory reads as clean


@dataclass(frozen=True)
class Learner:
    """The two networks that are trained together."""

    model: SanaVideo
    encoder: TextEncoder

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens and mask [B, K, L] -> embeddings [B, K, L, D], with gradients."""
        flat = self.encoder.model(
            input_ids=tokens.flatten(0, 1), attention_mask=mask.flatten(0, 1).long(), use_cache=False
        )
        return flat.last_hidden_state.unflatten(0, tokens.shape[:2])


class Words:
    """The sentences of a batch of clips, for every chunk."""

    def __init__(self, learner: Learner, tokens: Tensor, mask: Tensor) -> None:
        """tokens, mask [B, K, L]."""
        self.learner, self.mask, self.tokens = learner, mask, tokens
        self.embeddings = learner.embed(tokens, mask)

    def of(self, chunk: int) -> PreparedText:
        return self.learner.model.prepare_text(self.embeddings[:, chunk], self.mask[:, chunk])

    def absorbing(self, chunk: int, generator: torch.Generator) -> PreparedText:
        """The text with which a chunk is absorbed before the next: its text (keep) or the next one (recache).

        A stream does the same. Where the sentence doesn't change, both are equal.
        """
        size, device = len(self.mask), self.mask.device
        now = (torch.rand(size, generator=generator, device=device) < RECACHED)[:, None]
        mask = torch.where(now, self.mask[:, chunk + 1], self.mask[:, chunk])
        embeddings = torch.where(now[:, :, None], self.embeddings[:, chunk + 1], self.embeddings[:, chunk])
        return self.learner.model.prepare_text(embeddings, mask)


def draw_levels(batch: int, chunks: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Noise levels [B, K] in (0, 1], whole thousandths, never falling along K; constant in half of the rows.

    Half of all draws are on the grid of the four-step sampler, the others anywhere, denser at high noise.
    """

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    grid = torch.tensor(GRID, device=device)[(uniform(batch, chunks) * len(GRID)).long()]
    u = uniform(batch, chunks) * 0.98 + 0.02
    anywhere = warp(u, 4.0)  # pyright: ignore[reportArgumentType]  it is elementwise on tensors, too
    levels = torch.where(uniform(batch, chunks) < 0.5, grid, anywhere)
    same = uniform(batch, 1) < 0.5
    levels = torch.where(same, levels[:, :1].expand_as(levels), levels).sort(dim=1).values
    return (levels * 1000).round() / 1000


def noised(clean: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """clean [B, C, F, H, W] with noise of the levels [B]."""
    level = level.view(-1, 1, 1, 1, 1)
    return (1 - level) * clean + level * noise


def estimate(
    learner: Learner, x: Tensor, level: Tensor, text: PreparedText, memory: Memory | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """The velocity at x [B, C, F, H, W], and the clean latents that it points to."""
    first, _ = chunk_place(chunk)
    velocity = learner.model(x, 1000 * level, text, memory=memory, first_frame=first)
    return velocity, x - level.view(-1, 1, 1, 1, 1) * velocity


def smeared(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Clean latents with a little noise, of another level for each clip."""
    level = SMEAR * torch.rand(len(clean), generator=generator, device=clean.device)
    return noised(clean, level, normal(clean, generator))


def mean_error(velocity: Tensor, target: Tensor, chunk: int) -> Tensor:
    """The mean squared error [B, C, F, H, W]; in a first chunk, frame 0 counts OPENING times."""
    errors = (velocity - target).square().mean((0, 1, 3, 4))
    weights = torch.ones_like(errors)
    if chunk == 0:
        weights[0] = OPENING
    return (errors * weights).sum() / weights.sum()


def _sometimes_wordless(mask: Tensor, generator: torch.Generator) -> Tensor:
    """The masks [B, K, L], `wordless` in some clips."""
    chosen = torch.rand(len(mask), 1, 1, generator=generator, device=mask.device) < WORDLESS
    return torch.where(chosen, wordless(mask), mask)


def wordless(mask: Tensor) -> Tensor:
    """Only the first of the tokens [B, K, L], as an encoder makes it of an empty sentence."""
    return mask & (torch.arange(mask.shape[2], device=mask.device) == 0)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)


def flow_loss(
    learner: Learner, clips: Clips, rows: Tensor, estimated: float, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of some clips over all chunks; `estimated` is the share of estimates in the memory."""
    words = Words(learner, clips.tokens[rows], _sometimes_wordless(clips.mask[rows], generator))
    levels = draw_levels(len(rows), clips.chunks, generator, rows.device)
    memory: Memory | None = None
    losses: list[Tensor] = []
    seen = clips.chunk(rows, 0)  # what the memory reads of the chunk before
    for chunk in range(clips.chunks):
        clean = clips.chunk(rows, chunk)
        if chunk:
            first, _ = chunk_place(chunk - 1)
            text = words.absorbing(chunk - 1, generator)
            memory = learner.model.absorb(seen, text, memory=memory, first_frame=first)
        noise = normal(clean, generator)
        x = noised(clean, levels[:, chunk], noise)
        velocity, guess = estimate(learner, x, levels[:, chunk], words.of(chunk), memory, chunk)
        losses.append(mean_error(velocity, noise - clean, chunk))
        chosen = torch.rand(len(rows), 1, 1, 1, 1, generator=generator, device=rows.device) < estimated
        seen = torch.where(chosen, guess.detach(), smeared(clean, generator))
    every = torch.stack(losses)
    return every.mean(), {"first": every[0].detach(), "later": every[1:].detach().mean()}
