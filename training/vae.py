"""Training of the demo's VAE: Wan's network at a small width, on windows of our scenes.

B windows, T frames, F latent frames. The loss is the error of the pictures (L1, L2, and L1 of their edges)
and a small divergence of the latents from a unit normal. At the end, the two 1 x 1 x 1 convolutions on either
side of the latents give them the means and deviations that the rest of the pack expects of Wan's.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..sana_video_core.checkpoints.vae_file import load_vae
from ..sana_video_core.config import WAN_2_1
from ..sana_video_core.errors import FileError
from ..sana_video_core.vae.layers import Cache
from ..sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from .drawing import draw
from .graphs import Graph
from .scenes import Track, random_story, track

STEP = 16  # frames of a window: four latent frames
LENGTHS = (1, 1, 2, 2, 4, 7, 10)  # windows that a story is followed for
DIVERGENCE = 2e-4
OPENING = 0.3  # extra weight of a story's first frame, which the decoder makes from one latent frame alone
CHUNKS = 4  # of the stories that windows are cut from
BATCHES = 64  # batches of stories that are drawn up at a time


class Windows:
    """Endless batches of windows [B, 3, T, side, side] of new stories, which continue from window to window.

    The first window of a story has 1 + 16 frames, the next ones 16, up to ten of them: the network learns to
    continue from its cache. A window shows a square of `side` pixels out of a picture of `full`, somewhere
    around the shape.
    """

    def __init__(self, seed: int, batch: int, side: int, full: int, device: torch.device) -> None:
        self.seed, self.batch, self.side, self.full, self.device = seed, batch, side, full, device
        self.chance = random.Random(f"windows {seed}")
        self.pools, self.left = 0, []
        self.begin()

    def begin(self) -> None:
        """Choose new stories, and how far they are followed."""
        if not self.left:
            count = self.batch * BATCHES
            first = (self.seed * 10**5 + self.pools) * count
            self.pool = track([random_story(first + i, CHUNKS, changes=0.7) for i in range(count)], CHUNKS)
            self.pools += 1
            self.left = list(range(BATCHES))
        number = self.left.pop()
        rows = slice(number * self.batch, (number + 1) * self.batch)
        self.track = Track(*(part[rows] for part in self.pool))
        self.windows = self.chance.choice(LENGTHS)
        self.frame = 0
        spread = [[self.chance.uniform(-0.5, 0.5) for _ in range(2)] for _ in range(self.batch)]
        middle = self.track.centre[:, min(8 * self.windows, self.track.radius.shape[1] - 1)] * self.full
        room = self.full - self.side
        self.corner = (middle - self.side / 2 + torch.tensor(spread) * self.side).clamp(0, room).long()

    def next(self) -> tuple[Tensor, bool]:
        """The next window, and whether stories begin with it."""
        if self.frame >= 1 + STEP * self.windows:
            self.begin()
        starts = self.frame == 0
        end = self.frame + STEP + starts
        part = Track(*(x[:, self.frame : end] for x in self.track[:5]), shape=self.track.shape)
        self.frame = end
        frames = draw(part, self.full, self.full, self.device)
        if self.side < self.full:
            cut = zip(frames, self.corner.tolist(), strict=True)
            frames = torch.stack([f[..., y : y + self.side, x : x + self.side] for f, (x, y) in cut])
        return frames, starts


def load_wan(path: Path, **place: Any) -> WanVAE:
    """The VAE that a training wrote, or was told to begin with."""
    vae = load_vae(path, **place)
    if not isinstance(vae, WanVAE):
        raise FileError(f"“{path.name}” is a {vae.spec.name} VAE; a training goes on with Wan 2.1's.")
    return vae


def fresh_vae(width: int, device: torch.device, dtype: torch.dtype) -> WanVAE:
    vae = WanVAE(VAEConfig(base_width=width))
    for name, parameter in vae.named_parameters():
        if name.endswith("residual.6.weight"):
            torch.nn.init.zeros_(parameter)  # every residual block starts as its shortcut
    return vae.to(device, dtype)


class Pass(NamedTuple):
    """One window through both networks."""

    loss: Tensor
    squared: Tensor  # mean squared error
    encoder: Cache  # what the next window continues from
    decoder: Cache


def vae_pass(
    vae: WanVAE, pixels: Tensor, noise: Tensor, encoder: Cache | None = None, decoder: Cache | None = None
) -> Pass:
    """The loss of a window [B, 3, T, H, W]; `noise` [B, 16, F, H / 8, W / 8] spreads the latents."""
    starts = encoder is None
    means, spread, encoder = encode(vae, pixels, encoder)
    seen, decoder = decode(vae, means + torch.exp(0.5 * spread) * noise, decoder)
    divergence = 0.5 * (means.square() + spread.exp() - 1 - spread).mean()
    loss = picture_error(seen, pixels) + DIVERGENCE * divergence
    if starts:
        loss = loss + OPENING * picture_error(seen[:, :, :1], pixels[:, :, :1])
    squared = F.mse_loss(seen, pixels).detach()
    return Pass(loss, squared, *(tuple(t.detach() for t in c) for c in (encoder, decoder)))


def picture_error(seen: Tensor, pixels: Tensor) -> Tensor:
    """The error of pictures [B, 3, T, H, W], and of their edges in space and time."""
    axes = (2, 3, 4) if seen.shape[2] > 1 else (3, 4)
    edges = sum(F.l1_loss(seen.diff(dim=axis), pixels.diff(dim=axis)) for axis in axes)
    return 2 * F.mse_loss(seen, pixels) + F.l1_loss(seen, pixels) + edges


def settle_latents(vae: WanVAE) -> None:
    """Freeze the encoder: only the layers after the latents keep learning."""
    for part in (vae.encoder, vae.conv1):
        part.requires_grad_(False)
    for part in (vae.conv2, vae.decoder):
        part.requires_grad_(True)


def encode(vae: WanVAE, pixels: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor, Cache]:
    """pixels [B, 3, T, H, W] -> means, log variances [B, 16, F, H / 8, W / 8]; the first frame goes alone."""
    parts = (pixels[:, :, :1], pixels[:, :, 1:]) if cache is None else (pixels,)
    moments = []
    for part in parts:
        x, cache = vae.encoder(part.to(vae.conv1.weight.dtype), cache)
        moments.append(x)
    means, spread = vae.conv1(torch.cat(moments, dim=2)).float().chunk(2, dim=1)
    assert cache is not None
    return means, spread.clamp(-12, 6), cache


def decode(vae: WanVAE, latents: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
    """latents [B, 16, F, H, W] -> pixels [B, 3, T, 8 H, 8 W], not clamped."""
    x = vae.conv2(latents.to(vae.conv2.weight.dtype))
    seen = []
    for part in (x[:, :, :1], x[:, :, 1:]) if cache is None else (x,):
        pixels, cache = vae.decoder(part, cache)
        seen.append(pixels)
    assert cache is not None
    return torch.cat(seen, dim=2).float(), cache


class VAESteps:
    """The training's steps: windows of `crop` pixels for the first `crops` steps, then those of `side`."""

    def __init__(self, vae: WanVAE, *, seed: int, batch: int, side: int, crop: int, crops: int) -> None:
        self.vae, self.crops, self.device = vae, crops, vae.conv1.weight.device
        self.full = Windows(seed, batch, side, side, self.device)
        # as many pixels, but nearly all of them near a shape
        self.small = Windows(seed + 500, batch * (side // crop), crop, side, self.device)
        self.noise = torch.Generator(self.device)
        self.seed = seed
        self.graphs: dict[tuple[bool, bool], Graph] = {}
        self.caches: tuple[Tensor, ...] = ()
        self.slots = 0

    def __call__(self, number: int) -> dict[str, float]:
        """One step, which leaves gradients."""
        source = self.small if number < self.crops else self.full
        pixels, starts = source.next()
        kind = (source is self.small, starts)
        if kind not in self.graphs:
            self.graphs[kind] = Graph(self._begin if starts else self._continue, self.vae)
        frames = (pixels.shape[2] - 1) // 4 + 1
        size = (
            len(pixels),
            self.vae.config.latent_channels,
            frames,
            *(side // 8 for side in pixels.shape[-2:]),
        )
        self.noise.manual_seed(self.seed * 10**7 + number)
        noise = torch.randn(size, device=self.device, generator=self.noise)
        inputs = (pixels, noise) if starts else (pixels, noise, *self.caches)
        loss, squared, self.slots, self.caches = self.graphs[kind](*inputs)
        return {"loss": float(loss.detach()), "psnr": -10 * math.log10(float(squared) / 4)}

    def _begin(self, pixels: Tensor, noise: Tensor) -> tuple[Any, ...]:
        done = vae_pass(self.vae, pixels, noise)
        return done.loss, done.squared, len(done.encoder), (*done.encoder, *done.decoder)

    def _continue(self, pixels: Tensor, noise: Tensor, *caches: Tensor) -> tuple[Any, ...]:
        done = vae_pass(self.vae, pixels, noise, caches[: self.slots], caches[self.slots :])
        return done.loss, done.squared, len(done.encoder), (*done.encoder, *done.decoder)


@torch.no_grad()
def normalised(vae: WanVAE, pictures: Windows, batches: int) -> WanVAE:
    """The same VAE with latents whose means, and whose mean square over all channels, are Wan's.

    One scale for all channels: a channel that carries little stays small, and isn't amplified to noise.
    """
    cache: Cache | None = None
    seen = []
    for _ in range(batches):
        pixels, starts = pictures.next()
        latents, _, cache = encode(vae, pixels, None if starts else cache)
        seen.append(latents.transpose(0, 1).flatten(1))  # [16, …]
    latents = torch.cat(seen, dim=1)
    centre = latents.mean(dim=1)
    scale = (latents - centre[:, None]).square().mean().rsqrt()
    means, deviations = (torch.tensor(x).to(centre) for x in (WAN_2_1.means, WAN_2_1.deviations))
    gain = deviations * scale
    kept = VAEConfig(base_width=vae.config.base_width)
    out = WanVAE(kept).to(latents.device)
    tensors = {name: tensor.float().clone() for name, tensor in vae.state_dict().items()}
    to, back, C = tensors["conv1.weight"], tensors["conv2.weight"], len(gain)
    tensors["conv1.weight"] = torch.cat([to[:C] * gain.view(-1, 1, 1, 1, 1), to[C:]])
    tensors["conv1.bias"][:C] = (tensors["conv1.bias"][:C] - centre) * gain + means
    tensors["conv1.bias"][C:] += 2 * gain.log()
    undone = back / gain.view(1, -1, 1, 1, 1)
    tensors["conv2.weight"] = undone
    tensors["conv2.bias"] = tensors["conv2.bias"] - (undone.flatten(1) @ means) + back.flatten(1) @ centre
    out.load_state_dict(tensors)
    return out.eval()


@torch.no_grad()
def psnr(vae: WanVAE, pictures: Tensor) -> Tensor:
    """Decibels of each clip [B, 3, T, H, W] after `encode` and `decode`."""
    seen = vae.decode(vae.encode(pictures).float()).float()
    return -10 * torch.log10((seen - pictures).square().mean(dim=(1, 2, 3, 4)) / 4)
