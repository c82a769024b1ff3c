"""The Wan 2.1 video VAE: pixels to latents and back, whole, streamed or in tiles.

B batch, C latent channels, F H W latent frames, rows and columns. A latent frame is 4 frames of 8 x 8 pixels
per latent; the first of a clip is 1 frame. Pixels are in [-1, 1].

The network is causal and runs step by step. All it knows of the past is a cache, passed in and returned as a
new value. The steps are always the same (decode one latent frame, encode 1, 4, 4, ... frames), so any split
of a stream is bit-identical.

Source: Wan 2.1 VAE, wan/modules/vae.py of the original, whose parameter names are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn

from ..config import WAN_2_1, VAESpec
from ..errors import InputError
from ..shapes import LatentGrid
from .fused_network import FusedNetwork
from .fused_weights import WeightsOf, layer_weights, needs_plain, runs_as_written
from .layers import DOWN, UP, Cache, CausalLayer, CausalNetwork, ResidualBlock
from .ops import Choice, choose_for_frames
from .tiling import StreamCache, Tiling, tile_plan
from .vae_config import VAEConfig

PIXEL_CHANNELS = 3
STRIDE_TIME, STRIDE_SPACE = WAN_2_1.time_stride, WAN_2_1.space_stride

# bytes that decoding and encoding need beside the weights, per latent pixel and byte of the dtype: the causal
# cache and one step's activations, measured on full-size weights (docs/log.md)
PLAIN_BYTES, FUSED_BYTES = 480_000, 360_000

Pieces: TypeAlias = Iterable[Tensor] | Tensor  # of latents, or all of them as one
OnStep: TypeAlias = Callable[[int, int], object]
Run: TypeAlias = Callable[[Tensor, Any], tuple[Tensor, Cache]]  # an encoder or decoder


class Encoder(CausalNetwork):
    """1 or 4 frames [B, 3, 1 | 4, 8 H, 8 W] -> the moments of one latent frame [B, 2 C, 1, H, W]."""

    def __init__(self, config: VAEConfig, ops: Any, **place: Any) -> None:
        width, coarsest = config.base_width, config.widths[-1]
        moments = 2 * config.latent_channels
        super().__init__((PIXEL_CHANNELS, width), coarsest, (coarsest, moments), ops, **place)
        self.downsamples = nn.ModuleList()
        for out, halve in itertools.zip_longest(config.widths, DOWN):
            for _ in range(config.blocks):
                self.downsamples.append(ResidualBlock(width, out, ops, **place))
                width = out
            if halve is not None:
                self.downsamples.append(halve(width, ops, **place))

    def body(self) -> Iterator[CausalLayer]:
        return cast(Iterator[CausalLayer], itertools.chain(self.downsamples, self.middle))


class Decoder(CausalNetwork):
    """One latent frame [B, C, 1, H, W] -> 1 or 4 frames [B, 3, 1 | 4, 8 H, 8 W]."""

    def __init__(self, config: VAEConfig, ops: Any, **place: Any) -> None:
        finest, *_, width = config.widths
        super().__init__((config.latent_channels, width), width, (finest, PIXEL_CHANNELS), ops, **place)
        self.upsamples = nn.ModuleList()
        for out, double in itertools.zip_longest(reversed(config.widths), UP):
            for _ in range(config.blocks + 1):
                self.upsamples.append(ResidualBlock(width, out, ops, **place))
                width = out
            if double is not None:
                self.upsamples.append(double(width, ops, **place))
                width //= 2

    def body(self) -> Iterator[CausalLayer]:
        return cast(Iterator[CausalLayer], itertools.chain(self.middle, self.upsamples))


class WanVAE(nn.Module):
    """Encoder and decoder. Layer classes come from `operations`, so that a host can pass its own."""

    spec: ClassVar[VAESpec] = WAN_2_1

    def __init__(
        self,
        config: VAEConfig,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.kernels = "auto"  # a name in config.BACKENDS; the plain layers are the reference
        # a host whose layers cast or move their weights sets its own function
        self.weights_of: WeightsOf = layer_weights
        channels = config.latent_channels
        self.encoder = Encoder(config, operations, device=device, dtype=dtype)
        self.conv1 = operations.Conv3d(2 * channels, 2 * channels, 1, device=device, dtype=dtype)
        self.conv2 = operations.Conv3d(channels, channels, 1, device=device, dtype=dtype)
        self.decoder = Decoder(config, operations, device=device, dtype=dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.conv2.weight.dtype

    def kernel_choice(self, device: torch.device) -> Choice:
        """Whether the fused kernels run on `device`, and why not.

        Raises InputError if they were asked for but cannot run.
        """
        try:
            return choose_for_frames(self.kernels, device, self.dtype)
        except ValueError as error:
            raise InputError(str(error)) from error

    def memory_for(self, batch: int, grid: LatentGrid, device: torch.device) -> int:
        """Bytes that decoding or encoding pictures of this size needs on `device`, beside the weights."""
        fused = self.kernel_choice(device).triton and self._as_written(self.encoder, self.decoder)
        each = FUSED_BYTES if fused else PLAIN_BYTES
        return batch * grid.area * self.dtype.itemsize * each

    def encode(
        self, pixels: Tensor, *, tiling: Tiling | None = None, on_step: OnStep | None = None
    ) -> Tensor:
        """pixels [B, 3, T, 8 H, 8 W] -> the mean latents [B, C, F, H, W] in VAE space, F = 1 + (T - 1) // 4.

        Frames beyond 4 F - 3 are dropped. `on_step(done, total)` is called after each latent frame of a tile.
        """
        _check_video(pixels, "pixels", PIXEL_CHANNELS)
        rows, columns = pixels.shape[-2:]
        if rows % STRIDE_SPACE or columns % STRIDE_SPACE:
            fit = [max(side // STRIDE_SPACE, 1) * STRIDE_SPACE for side in (columns, rows)]
            raise InputError(
                f"The picture is {columns} x {rows} (width x height); the VAE needs multiples of "
                f"{STRIDE_SPACE}. Scale or crop it, for example to {fit[0]} x {fit[1]}."
            )
        length = 1 + (pixels.shape[2] - 1) // STRIDE_TIME
        plan = tile_plan(rows // STRIDE_SPACE, columns // STRIDE_SPACE, tiling)
        tick = _ticker(on_step, length * len(plan.windows))
        run = self._runner(self.encoder, pixels)
        tiles = (
            self._encode_clip(window.of(pixels, STRIDE_SPACE), length, tick, run) for window in plan.windows
        )
        return plan.blend(tiles, scale=1)

    def decode(
        self, latents: Tensor, *, tiling: Tiling | None = None, on_step: OnStep | None = None
    ) -> Tensor:
        """latents [B, C, F, H, W] in VAE space -> pixels [B, 3, 4 F - 3, 8 H, 8 W].

        `on_step(done, total)` is called after each latent frame of a tile. Each tile runs through the whole
        clip before the next begins, so only one tile's cache is alive; a stream keeps all of them.
        """
        _check_video(latents, "latents", self.config.latent_channels)
        length, rows, columns = latents.shape[2:]
        plan = tile_plan(rows, columns, tiling)
        tick = _ticker(on_step, length * len(plan.windows))
        run = self._runner(self.decoder, latents)
        tiles = (self._decode_clip(window.of(latents), tick, run) for window in plan.windows)
        # after the blend, which would otherwise mix clamped values; in place, because the tensor is large
        return plan.blend(tiles, STRIDE_SPACE).clamp_(-1.0, 1.0)

    def decode_stream(
        self, pieces: Pieces, *, cache: StreamCache | None = None, tiling: Tiling | None = None
    ) -> Generator[Tensor, None, StreamCache | None]:
        """Pixels [B, 3, 1 | 4, 8 H, 8 W] of one clip's pieces [B, C, any, H, W], as soon as they are known.

        They are bit-identical to one `decode`. A stream continues from a `cache`; at its end the generator
        returns the next one (the value of `yield from`).
        """
        run: Run | None = None
        for piece in (pieces,) if isinstance(pieces, Tensor) else pieces:
            _check_video(piece, "latents", self.config.latent_channels)
            plan = tile_plan(piece.shape[-2], piece.shape[-1], tiling)
            if run is None:
                run = self._runner(self.decoder, piece)
            for latent in piece.split(1, dim=2):
                past = _let_go(cache)
                cache = None
                pixels, cache = plan.step(partial(self.decode_frame, run=run), latent, past, STRIDE_SPACE)
                yield pixels.clamp(-1.0, 1.0)
        return cache

    def decode_frame(
        self, latent: Tensor, cache: Cache | list[Tensor] | None, run: Run | None = None
    ) -> tuple[Tensor, Cache]:
        """One step of decoding: a latent frame [B, C, 1, H, W] and the cache of those before it.

        Returns unclamped pixels [B, 3, 4, 8 H, 8 W] (1 frame if the cache is None) and the next cache. A
        cache that is a list may be emptied on the way, so that there are never two in memory. `run` is the
        decoder as it was chosen for many steps.
        """
        _check_video(latent, "latents", self.config.latent_channels, frames=1)
        if run is None:  # not `or`: what torch.compile made of a network has no truth
            run = self._runner(self.decoder, latent)
        return run(self.conv2(self._plain(latent)), cache)

    def encode_frames(
        self, pixels: Tensor, cache: Cache | list[Tensor] | None, run: Run | None = None
    ) -> tuple[Tensor, Cache]:
        """One step of encoding: 4 frames [B, 3, 4, 8 H, 8 W], or 1 if the cache is None.

        Returns the moments of a latent frame [B, 2 C, 1, H, W], means before log variances, and the next
        cache. `cache` and `run` are as in `decode_frame`.
        """
        _check_video(pixels, "pixels", PIXEL_CHANNELS, frames=1 if cache is None else STRIDE_TIME)
        if run is None:
            run = self._runner(self.encoder, pixels)
        moments, kept = run(self._plain(pixels), cache)
        return self.conv1(moments), kept

    def _runner(self, network: CausalNetwork, x: Tensor) -> Run:
        """An encoder or decoder on the fused kernels where they run, else as its layers are written.

        It holds copies of the weights: choose again when they may have changed. Raises InputError if kernels
        were asked for that cannot run.
        """
        if torch.compiler.is_compiling():  # first, so that compilers don't trace the rest
            return network
        fused = self.kernel_choice(x.device).triton and self._as_written(network)
        if not fused or needs_plain(network, x):
            return network
        return FusedNetwork(network, self.weights_of, x.device, self.dtype)

    def _as_written(self, *networks: CausalNetwork) -> bool:
        of_host = self.weights_of is not layer_weights
        return all(runs_as_written(network, of_host) for network in networks)

    def _encode_clip(self, pixels: Tensor, length: int, tick: Callable[[], None], run: Run) -> Tensor:
        """pixels of one tile [B, 3, T, 8 H, 8 W] -> means of `length` latent frames [B, C, F, H, W]."""
        means: list[Tensor] = []
        cache = None
        for step in range(length):
            last, past = STRIDE_TIME * step, _let_go(cache)
            cache = None
            moments, cache = self.encode_frames(pixels[:, :, max(0, last - 3) : last + 1], past, run)
            means.append(moments[:, : self.config.latent_channels])
            tick()
        return torch.cat(means, dim=2)

    def _decode_clip(self, latents: Tensor, tick: Callable[[], None], run: Run) -> Tensor:
        """latents of one tile [B, C, F, H, W] -> pixels [B, 3, 4 F - 3, 8 H, 8 W], not yet clamped."""
        batch, _, length, rows, columns = latents.shape
        size = (STRIDE_TIME * length - 3, STRIDE_SPACE * rows, STRIDE_SPACE * columns)
        # filled piece by piece: a concatenation at the end would hold every frame twice
        video = latents.new_empty(batch, PIXEL_CHANNELS, *size, dtype=self.dtype)
        cache, start = None, 0
        for latent in latents.split(1, dim=2):
            past = _let_go(cache)
            cache = None
            pixels, cache = self.decode_frame(latent, past, run)
            video[:, :, start : start + pixels.shape[2]] = pixels
            start += pixels.shape[2]
            tick()
        return video

    def _plain(self, x: Tensor) -> Tensor:
        """x in the network's dtype, copied: a slice's layout may select kernels that round differently."""
        return x.to(self.dtype, copy=True, memory_format=torch.contiguous_format)


def _check_video(video: Tensor, name: str, channels: int, frames: int | None = None) -> None:
    """Raises unless this is a non-empty video [B, channels, T, H, W] (of `frames` frames, if given)."""
    size = list(video.shape)
    if len(size) != 5 or size[1] != channels or 0 in size or frames not in (None, size[2]):
        raise InputError(
            f"The {name} have the shape {size}; they have to be [batch, {channels}, {frames or 'frames'}, "
            "rows, columns], none of them 0. Reorder or cut them."
        )


def _let_go(cache: Any) -> Any:
    """A cache that nobody else holds as a list, for a step to empty."""
    return list(cache) if type(cache) is tuple else cache


def _ticker(on_step: OnStep | None, total: int) -> Callable[[], None]:
    """A function that counts its calls for `on_step`."""
    done = itertools.count(1)

    def tick() -> None:
        if on_step is not None:
            on_step(next(done), total)

    return tick
