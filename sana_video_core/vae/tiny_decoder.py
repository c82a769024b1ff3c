"""The tiny decoders of Wan 2.1 latents, taew2_1 and lighttaew2_1: drafts at a small part of the VAE's time.

B batch, C channels, T time steps of one call, H W rows and columns. All layers see single pictures, but nine
blocks also see their own input of the time step before. These nine pictures are the memory: passed in, and
returned as a new value. A step is always one latent frame, so any split of a stream is bit-identical.

Both have the same names and sizes and differ in what they read: taew2_1 the latents of model space,
lighttaew2_1 those of VAE space. Here VAE space goes in, and pixels in [-1, 1] come out.

Source: TAEHV (taehv.py of madebyollin), whose parameter names are kept.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import WAN_2_1, VAESpec
from ..errors import InputError, StateError
from ..shapes import LatentGrid
from .statistics import to_model_space
from .tiling import StreamCache, Tiling, tile_plan

Memory: TypeAlias = tuple[Tensor, ...]

TAEW2_1, LIGHTTAEW2_1 = KINDS = ("taew2_1", "lighttaew2_1")
WIDTHS = (256, 128, 64)  # of the levels, coarsest first
GROWTHS = (1, 2, 2)  # how many time steps become of one at the end of each level
COLOURS = 3
STRIDE_SPACE = WAN_2_1.space_stride
MEMORY_BYTES = 80_000  # that decoding needs beside the weights, per latent pixel and byte of the dtype


class MemoryBlock(nn.Module):
    """Three convolutions over a picture and the one before it, added to the picture."""

    def __init__(self, width: int, ops: Any, **place: Any) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width, ops, **place),
            nn.ReLU(inplace=True),
            _conv(width, width, ops, **place),
            nn.ReLU(inplace=True),
            _conv(width, width, ops, **place),
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """x [B * T, C, H, W] and the time step before it, past [B, C, H, W] -> the shape of x."""
        before = torch.cat((past.unsqueeze(1), x.unflatten(0, (len(past), -1))[:, :-1]), dim=1)
        return F.relu_(self.conv(torch.cat((x, before.flatten(0, 1)), dim=1)) + x)


class Grow(nn.Module):
    """Each time step becomes `growth` of them, each pixel four.

    The original repeats pixels first. A convolution of single pixels gives the same either way; this is four
    times less work.
    """

    def __init__(self, width: int, growth: int, ops: Any, **place: Any) -> None:
        super().__init__()
        self.growth = growth
        self.conv = ops.Conv2d(width, growth * width, 1, bias=False, **place)

    def forward(self, x: Tensor) -> Tensor:
        """x [B * T, C, H, W] -> [B * T * growth, C, 2 H, 2 W]."""
        return F.interpolate(self.conv(x).unflatten(1, (self.growth, -1)).flatten(0, 1), scale_factor=2)


class SoftLimit(nn.Module):
    """Latents bent to stay within three deviations."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TinyDecoder(nn.Module):
    """A draft decoder. Layer classes come from `operations`, so that a host can pass its own."""

    spec: ClassVar[VAESpec] = WAN_2_1

    def __init__(
        self,
        kind: str,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """`kind` is one of KINDS."""
        super().__init__()
        self.kind, place = kind, {"device": device, "dtype": dtype}
        layers: list[nn.Module] = [SoftLimit(), _conv(self.spec.channels, WIDTHS[0], operations, **place)]
        layers.append(nn.ReLU(inplace=True))
        for width, narrower, growth in zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), GROWTHS, strict=True):
            layers += [MemoryBlock(width, operations, **place) for _ in range(3)]
            layers.append(nn.Identity())  # the original repeats pixels here; keeps its numbers
            layers.append(Grow(width, growth, operations, **place))
            layers.append(_conv(width, narrower, operations, bias=False, **place))
        layers += [nn.ReLU(inplace=True), _conv(WIDTHS[-1], COLOURS, operations, **place)]
        self.decoder = nn.Sequential(*layers)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.decoder[1].weight.dtype  # pyright: ignore[reportReturnType]

    def memory_for(self, batch: int, grid: LatentGrid, device: torch.device) -> int:
        """Bytes that decoding pictures of this size needs beside the weights, on any device."""
        return batch * grid.area * self.dtype.itemsize * MEMORY_BYTES

    def decode_stream(
        self,
        pieces: Iterable[Tensor] | Tensor,
        *,
        cache: StreamCache | None = None,
        tiling: Tiling | None = None,
    ) -> Generator[Tensor, None, StreamCache | None]:
        """Pixels [B, 3, 1 | 4, 8 H, 8 W] of one clip's pieces [B, 16, any, H, W]; as `WanVAE` does it."""
        for piece in (pieces,) if isinstance(pieces, Tensor) else pieces:
            self._check(piece)
            plan = tile_plan(piece.shape[-2], piece.shape[-1], tiling)
            for latent in piece.split(1, dim=2):
                pixels, cache = plan.step(self.step, latent, cache, STRIDE_SPACE)
                yield pixels
        return cache

    @torch.no_grad()
    def step(self, latent: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """One latent frame [B, 16, 1, H, W] in VAE space, and the memory of those before it.

        Returns pixels [B, 3, 4, 8 H, 8 W] in [-1, 1], float32, and the next memory. Without a memory it is a
        clip's first latent frame, which is 1 frame. Raises InputError for other latents, StateError for
        another clip's memory.
        """
        self._check(latent, frames=1)
        wanted = to_model_space(latent, self.spec) if self.kind == TAEW2_1 else latent
        # copied: a slice's layout may select kernels that round differently
        x = wanted.to(self.dtype, copy=True, memory_format=torch.contiguous_format).squeeze(2)
        if memory is not None:
            _check_fits(memory, x)
        pictures, kept = self._pictures(x, memory)
        frames = pictures.unflatten(0, (len(latent), -1)).transpose(1, 2)  # [B, 3, 4, 8 H, 8 W]
        return frames[:, :, -1 if memory is None else 0 :].float().mul(2).sub(1).clamp(-1, 1), kept

    def _pictures(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """x [B, C, H, W] -> pictures [B * 4, 3, 8 H, 8 W] in about [0, 1], and the next memory."""
        batch, kept = len(x), []
        for layer in self.decoder:
            if not isinstance(layer, MemoryBlock):
                x = layer(x)
                continue
            last = x.unflatten(0, (batch, -1))[:, -1]
            past = torch.zeros_like(last) if memory is None else memory[len(kept)]
            kept.append(last.clone())
            x = layer(x, past)
        return x, tuple(kept)

    def _check(self, latents: Tensor, frames: int | None = None) -> None:
        size = list(latents.shape)
        if len(size) != 5 or size[1] != self.spec.channels or 0 in size or frames not in (None, size[2]):
            raise InputError(
                f"Latents of the shape {size} were given; {self.kind} decodes [batch, {self.spec.channels}, "
                f"{frames or 'latent frames'}, rows, columns], none of them 0. Reorder or cut them."
            )


def _conv(channels: int, out: int, ops: Any, **options: Any) -> nn.Module:
    return ops.Conv2d(channels, out, 3, padding=1, **options)


def _check_fits(memory: Memory, x: Tensor) -> None:
    """Raises StateError unless this is a memory of the clip of x [B, C, H, W], by its first tensor."""
    required = (3 * len(WIDTHS), (len(x), WIDTHS[0], *x.shape[-2:]), x.dtype)
    first = memory[0] if memory else None
    actual = (len(memory), tuple(getattr(first, "shape", ())), getattr(first, "dtype", None))
    if actual != required:
        raise StateError(
            "This memory does not belong to this clip: "
            f"it is {actual} (tensors, size and type of the first), but has to be {required}. "
            "Keep batch, size, type and tiling, or begin a clip without a memory."
        )
