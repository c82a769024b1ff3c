"""Random weights of tiny decoders' files, with the real names and sizes, and what they compute, slowly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTHS = (256, 128, 64)
SLIM = (12, 8, 4)  # for tests that don't need the published widths
MEMORY_BLOCKS = (3, 4, 5, 9, 10, 11, 15, 16, 17)  # in threes of one width
GROW = {7: 1, 13: 2, 19: 2}  # time steps that become of one
PLAIN = (8, 14, 20)  # without bias


def _sizes(channels: int, colours: int, widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """TAEHV's tensors: 64 of the decoder and 64 of the encoder."""
    sizes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, into: int, kernel: int = 3, bias: bool = True) -> None:
        sizes[f"{name}.weight"] = (out, into, kernel, kernel)
        if bias:
            sizes[f"{name}.bias"] = (out,)

    def memory_block(name: str, width: int) -> None:
        conv(f"{name}.conv.0", width, 2 * width)
        conv(f"{name}.conv.2", width, width)
        conv(f"{name}.conv.4", width, width)

    conv("encoder.0", 64, colours)
    for first, steps in ((2, 2), (7, 2), (12, 1)):
        conv(f"encoder.{first}.conv", 64, 64 * steps, 1, bias=False)
        conv(f"encoder.{first + 1}", 64, 64, bias=False)
        for number in range(first + 2, first + 5):
            memory_block(f"encoder.{number}", 64)
    conv("encoder.17", channels, 64)
    conv("decoder.1", widths[0], channels)
    for width, next_width, blocks, grow, plain in zip(
        widths, (*widths[1:], widths[-1]), ((3, 4, 5), (9, 10, 11), (15, 16, 17)), GROW, PLAIN, strict=True
    ):
        for number in blocks:
            memory_block(f"decoder.{number}", width)
        conv(f"decoder.{grow}.conv", GROW[grow] * width, width, 1, bias=False)
        conv(f"decoder.{plain}", next_width, width, bias=False)
    conv("decoder.22", colours, widths[-1])
    return sizes


def tiny_weights(
    seed: int = 0,
    channels: int = 16,
    colours: int = 3,
    dtype: torch.dtype = torch.float32,
    widths: tuple[int, ...] = WIDTHS,
) -> dict[str, Tensor]:
    """All tensors of a file like taew2_1. Its pictures lie within about [0, 1]; all layers matter."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, size in _sizes(channels, colours, widths).items():
        into = size[1] * size[2] * size[3] if len(size) > 1 else 0
        scale = 1.2 / into**0.5 if into else 0.1
        tensors[name] = (torch.randn(size, generator=generator) * scale).to(dtype)
    tensors["decoder.22.weight"] *= 0.3
    tensors["decoder.22.bias"] += 0.5
    return tensors


def decode_slowly(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Frames [4 F - 3, 3, 8 H, 8 W] in about [0, 1] of a video's latents [F, 16, H, W], as the file reads it.

    By TAEHV's definition: layer by layer over all time steps; a memory block's past is its input one time
    step earlier, zeros before the first.
    """

    def conv(x: Tensor, name: str) -> Tensor:
        weight = weights[f"decoder.{name}.weight"].float()
        bias = weights.get(f"decoder.{name}.bias")
        return F.conv2d(x, weight, None if bias is None else bias.float(), padding=weight.shape[-1] // 2)

    x = conv(torch.tanh(latents.float() / 3) * 3, "1").relu()
    for number in range(3, 21):
        if number in MEMORY_BLOCKS:
            past = torch.cat((torch.zeros_like(x[:1]), x[:-1]))
            y = conv(torch.cat((x, past), dim=1), f"{number}.conv.0").relu()
            x = (conv(conv(y, f"{number}.conv.2").relu(), f"{number}.conv.4") + x).relu()
        elif number in GROW:
            x = x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
            x = conv(x, f"{number}.conv").reshape(-1, x.shape[1], *x.shape[-2:])
        elif number in PLAIN:
            x = conv(x, str(number))
    return conv(x.relu(), "22")[3:]
