"""The LTX-2 and LTX-2.3 video VAE: pixels to latents and back, in constant memory, whole or in tiles.

B batch, C latent channels, F H W latent frames, rows and columns. A latent frame is 8 frames of 32 x 32
pixels per latent; the first of a clip is 1 frame. Pixels are in [-1, 1]. Latents are normalised by the
statistics of the file, so VAE space is model space.

The encoder is causal. The published decoders look ahead as far as back, 22 latent frames (LTX-2.3: 14), so
that a short clip shows nothing before its last latent frame. They run layer by layer, each a frame behind
the one before it, which is exact and needs no more memory for a longer clip (ltx_stream).

Source: the LTX-2 video VAE of Lightricks, whose parameter names are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..config import LTX_2, VAESpec
from ..errors import InputError
from ..shapes import Compression, LatentGrid
from .fused_weights import WeightsOf, layer_weights, needs_plain, runs_as_written
from .ltx_config import COLOURS, LtxConfig
from .ltx_fused import fused_stages
from .ltx_network import DEVIATIONS, MEANS, Decoder, Encoder, Statistics
from .ltx_stream import Stage, depth_first, regrouped, with_end, without_end
from .ops import Choice, choose_for_frames
from .tiling import TilePlan, Tiling, tile_plan

STRIDE_TIME, STRIDE_SPACE = LTX_2.time_stride, LTX_2.space_stride
# bytes that decoding and encoding need beside the weights, per latent pixel and byte of the dtype: 1,090,000
# of tensors (fused 1,010,000), counted at full size for any length, and as a reserve what convolutions work
# in. The fused layers need a copy of a network's weights, too
PLAIN_BYTES, FUSED_BYTES = 1_600_000, 1_200_000

OnStep: TypeAlias = Callable[[int, int], object]


class LtxVAE(nn.Module):
    """Encoder and decoder. Layer classes come from `operations`, so that a host can pass its own."""

    def __init__(
        self,
        config: LtxConfig,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.spec = config, config.spec
        self.kernels = "auto"  # a name in config.BACKENDS; the plain layers are the reference
        # a host whose layers cast or move their weights sets its own function
        self.weights_of: WeightsOf = layer_weights
        self.encoder = Encoder(config, operations, device=device, dtype=dtype)
        self.decoder = Decoder(config, operations, device=device, dtype=dtype)
        self.per_channel_statistics = Statistics(config.latent_channels, device=device, dtype=dtype)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.decoder.conv_in.conv.weight.dtype

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
        networks = self.encoder, self.decoder
        size = batch * grid.area * self.dtype.itemsize
        if not self.kernel_choice(device).triton or not all(map(self._as_written, networks)):
            return size * PLAIN_BYTES
        return size * FUSED_BYTES + self.dtype.itemsize * max(map(_numbers, networks))

    def encode(
        self, pixels: Tensor, *, tiling: Tiling | None = None, on_step: OnStep | None = None
    ) -> Tensor:
        """pixels [B, 3, 8 F - 7, 32 H, 32 W] -> the mean latents [B, C, F, H, W], normalised.

        `on_step(done, total)` is called after each latent frame of a tile. Raises InputError for pixels of
        another size.
        """
        _check_pixels(pixels, self.spec)
        rows, columns = (side // STRIDE_SPACE for side in pixels.shape[-2:])
        length = 1 + (pixels.shape[2] - 1) // STRIDE_TIME
        plan, stages = _plan(rows, columns, tiling, self.spec), self._stages(self.encoder, pixels)
        tick = _ticker(on_step, length * len(plan.windows))

        def encoded(pixels: Tensor) -> Tensor:
            ends = range(1, pixels.shape[2] + 1, STRIDE_TIME)
            pieces = (pixels[:, :, max(0, end - STRIDE_TIME) : end] for end in ends)
            means = []
            for moments in depth_first(stages, without_end(map(self._plain, pieces))):
                means.append(moments[:, : self.config.latent_channels])
                tick()
            return torch.cat(means, dim=2)

        means = plan.blend((encoded(window.of(pixels, STRIDE_SPACE)) for window in plan.windows), scale=1)
        mean, deviation = self._statistics(means)
        return (means - mean) / deviation

    def decode(
        self, latents: Tensor, *, tiling: Tiling | None = None, on_step: OnStep | None = None
    ) -> Tensor:
        """latents [B, C, F, H, W], normalised -> pixels [B, 3, 8 F - 7, 32 H, 32 W].

        `on_step(done, total)` is called for each latent frame of a tile that has become pixels. Each tile
        runs through the whole clip before the next begins.
        """
        self._check_latents(latents)
        length, rows, columns = latents.shape[2:]
        plan, stages = _plan(rows, columns, tiling, self.spec), self._stages(self.decoder, latents)
        tick = _ticker(on_step, length * len(plan.windows))

        def decoded(latents: Tensor) -> Tensor:
            frames = STRIDE_TIME * (length - 1) + 1
            rows, columns = (STRIDE_SPACE * side for side in latents.shape[-2:])
            # filled piece by piece: a concatenation at the end would hold every frame twice
            video = latents.new_empty(len(latents), COLOURS, frames, rows, columns, dtype=self.dtype)
            made = 0
            for pixels in self._frames(latents.split(1, dim=2), stages):
                video[:, :, made : made + pixels.shape[2]] = pixels
                made += pixels.shape[2]
                tick()
            return video

        # clamped after the blend, which would otherwise mix clamped values; in place, because it is large
        tiles = (decoded(window.of(latents)) for window in plan.windows)
        return plan.blend(tiles, STRIDE_SPACE).clamp_(-1.0, 1.0)

    def decode_stream(
        self, pieces: Iterable[Tensor] | Tensor, *, tiling: Tiling | None = None
    ) -> Iterator[Tensor]:
        """Pixels [B, 3, 1 | 8, 32 H, 32 W] of one clip's pieces [B, C, any, H, W], as soon as they are known.

        A symmetric decoder knows the first of them after 23 latent frames (LTX-2.3: 15), or at the end.
        Tiles run side by side.
        """
        latents = self._latent_frames(pieces)
        first = next(latents, None)
        if first is None:
            return
        rows, columns = first.shape[-2:]
        plan, stages = _plan(rows, columns, tiling, self.spec), self._stages(self.decoder, first)
        copies = itertools.tee(itertools.chain((first,), latents), len(plan.windows))
        tiles = [
            self._frames(map(window.of, copy), stages)
            for window, copy in zip(plan.windows, copies, strict=True)
        ]
        del first, copies
        for pictures in zip(*tiles, strict=True):
            yield plan.blend(pictures, STRIDE_SPACE).clamp(-1.0, 1.0)

    def _stages(self, network: Encoder | Decoder, x: Tensor) -> list[Stage]:
        """The layers of a run, on the fused kernels where they run, else as they are written.

        As WanVAE._runner, with copies of the weights. Raises InputError if kernels were asked for that cannot
        run.
        """
        if torch.compiler.is_compiling():  # first, so that compilers don't trace the rest
            return list(network.stages())
        fused = self.kernel_choice(x.device).triton and self._as_written(network)
        if not fused or needs_plain(network, x):
            return list(network.stages())
        return fused_stages(network, self.weights_of, x.device, self.dtype)

    def _as_written(self, network: Encoder | Decoder) -> bool:
        of_host = self.weights_of is not layer_weights
        border = self.config.padding if network is self.decoder else "zeros"
        return runs_as_written(network, of_host, border)

    def _frames(self, latents: Iterable[Tensor], stages: list[Stage]) -> Iterator[Tensor]:
        """Unclamped pixels [B, 3, 1 | 8, 32 H, 32 W] of a clip's latent frames [B, C, 1, H, W]."""
        pieces = map(self._plain, map(self._as_made, latents))
        made = depth_first(stages, without_end(pieces) if self.config.causal else with_end(pieces))
        return regrouped(made, 1, STRIDE_TIME)

    def _as_made(self, latents: Tensor) -> Tensor:
        """Latents as the encoder makes them, before they are normalised."""
        mean, deviation = self._statistics(latents)
        return latents * deviation + mean

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation [C, 1, 1, 1], at least in float32."""
        wide = torch.promote_types(torch.promote_types(like.dtype, self.dtype), torch.float32)
        mean, deviation = (
            self.per_channel_statistics.get_buffer(name).to(like.device, wide)[:, None, None, None]
            for name in (MEANS, DEVIATIONS)
        )
        return mean, deviation

    def _latent_frames(self, pieces: Iterable[Tensor] | Tensor) -> Iterator[Tensor]:
        """A clip's latent frames [B, C, 1, H, W]. Raises InputError if they don't fit each other."""
        size = None
        for piece in (pieces,) if isinstance(pieces, Tensor) else pieces:
            self._check_latents(piece)
            actual = [len(piece), *piece.shape[-2:]]
            if actual != (size := size or actual):
                raise InputError(
                    f"A clip's latents have one size, but {size} was followed by {actual} "
                    "(batch, rows, columns). Decode them one by one."
                )
            yield from piece.split(1, dim=2)

    def _check_latents(self, latents: Tensor) -> None:
        size, channels, least = list(latents.shape), self.config.latent_channels, self.spec.least
        if len(size) != 5 or size[1] != channels or 0 in size or min(size[3:]) < least:
            raise InputError(
                f"The latents have the shape {size}; the {self.spec.name} VAE decodes [batch, {channels}, "
                f"latent frames, rows, columns], of at least {least} x {least}. Reorder or cut them."
            )

    def _plain(self, x: Tensor) -> Tensor:
        """x in the network's dtype, copied: a slice's layout may select kernels that round differently."""
        return x.to(self.dtype, copy=True, memory_format=torch.contiguous_format)


def _numbers(network: nn.Module) -> int:
    """How many numbers its weights are."""
    return sum(parameter.numel() for parameter in network.parameters())


def _plan(rows: int, columns: int, tiling: Tiling | None, spec: VAESpec) -> TilePlan:
    return replace(tile_plan(rows, columns, tiling), least=spec.least)


def _check_pixels(pixels: Tensor, spec: VAESpec) -> None:
    """Raises InputError for what isn't a video of 8 n + 1 frames and multiples of 32 pixels."""
    size = list(pixels.shape)
    if len(size) != 5 or size[1] != COLOURS or 0 in size:
        raise InputError(
            f"The pixels have the shape {size}; they have to be [batch, 3, frames, rows, columns], none of "
            "them 0. Reorder or cut them."
        )
    compression = Compression(spec.time_stride, spec.space_stride, patch=1, least=spec.least)
    rows, columns = size[3:]
    compression.grid(rows, columns)
    compression.latent_frames(size[2])


def _ticker(on_step: OnStep | None, total: int) -> Callable[[], None]:
    """A function that counts its calls for `on_step`."""
    done = itertools.count(1)

    def tick() -> None:
        if on_step is not None:
            on_step(next(done), total)

    return tick
