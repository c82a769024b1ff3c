"""Encoder and decoder of the LTX-2 video VAE as rows of layers, and the statistics of its latents.

Module names are the original's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..config import LTX_2
from .ltx_config import COLOURS, PATCH, LtxConfig
from .ltx_layers import Blocks, Down, Up, VideoConv, active, patches, pixels_of
from .ltx_stream import Stage

MEANS, DEVIATIONS = "mean-of-means", "std-of-means"


class Encoder(nn.Module):
    """1 or 8 frames [B, 3, 1 | 8, 32 H, 32 W] -> the moments of one latent frame [B, C + 1, 1, H, W]."""

    def __init__(self, config: LtxConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        options = {"causal": True, "padding": "zeros", **place}
        widths = config.encoder_widths
        self.conv_in = VideoConv(COLOURS * PATCH * PATCH, widths[0], ops, **options)
        self.down_blocks = nn.ModuleList()
        for number, (count, width) in enumerate(zip(config.encoder_blocks, widths, strict=True)):
            if number:
                step = widths[number - 1], width, config.downs[number - 1]
                self.down_blocks.append(Down(*step, ops, **options))
            self.down_blocks.append(Blocks(count, width, ops, **options))
        # the means, and one log variance for all channels
        self.conv_out = VideoConv(widths[-1], config.latent_channels + 1, ops, **options)

    def stages(self) -> Iterator[Stage]:
        """The layers in order. None of them looks ahead, so no output has to be divided."""
        yield Stage(lambda x, past, last: self.conv_in(patches(x), past, last), LTX_2.time_stride)
        yield from (Stage(layer, LTX_2.time_stride) for layer in layers_of(self.down_blocks))
        yield Stage(lambda x, past, last: self.conv_out(active(x), past, last), LTX_2.time_stride)


class Decoder(nn.Module):
    """Latent frames [B, C, F, H, W] -> frames [B, 3, 8 F - 7, 32 H, 32 W]."""

    def __init__(self, config: LtxConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        options = {"causal": config.causal, "padding": config.padding, **place}
        widths = config.decoder_widths
        self.conv_in = VideoConv(config.latent_channels, widths[0], ops, **options)
        self.up_blocks = nn.ModuleList()
        for number, (count, width) in enumerate(zip(config.decoder_blocks, widths, strict=True)):
            if number:
                step = widths[number - 1], width, config.ups[number - 1]
                self.up_blocks.append(Up(*step, ops, shortcut=config.shortcut, **options))
            self.up_blocks.append(Blocks(count, width, ops, **options))
        self.conv_out = VideoConv(widths[-1], COLOURS * PATCH * PATCH, ops, **options)

    def stages(self) -> Iterator[Stage]:
        """The layers in order."""
        frames = 1  # of one latent frame
        yield Stage(self.conv_in, frames)
        for layer in layers_of(self.up_blocks):
            frames *= layer.growth
            yield Stage(layer, frames)
        yield Stage(self._colours, frames)

    def _colours(self, x: Tensor, past: Any, last: bool) -> tuple[Tensor | None, Any]:
        y, past = self.conv_out(active(x), past, last)
        return (None if y is None else pixels_of(y)), past


class Statistics(nn.Module):
    """Means and deviations [C] of the latents, as the file has them."""

    def __init__(self, channels: int, **place: Any) -> None:
        super().__init__()
        self.register_buffer(DEVIATIONS, torch.ones(channels, **place))
        self.register_buffer(MEANS, torch.zeros(channels, **place))


def layers_of(blocks: Iterable[nn.Module]) -> Iterator[Any]:
    """The layers of levels and between them, one by one."""
    for block in blocks:
        yield from block.res_blocks if isinstance(block, Blocks) else (block,)
