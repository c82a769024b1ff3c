"""The sizes of an LTX-2 or LTX-2.3 video VAE, given or read from a checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from ..config import LTX_2, LTX_2_3, VAESpec
from ..errors import InputError

Factor: TypeAlias = tuple[int, int, int]  # in time, rows, columns
TIME, SPACE, BOTH = (2, 1, 1), (1, 2, 2), (2, 2, 2)
FACTORS: dict[int, Factor] = {math.prod(factor): factor for factor in (TIME, SPACE, BOTH)}
PATCH = 4  # pixels a side that are one position's channels
COLOURS = 3
Weights: TypeAlias = Mapping[str, Tensor | Sequence[int]]  # original names, and tensors or their shapes


@dataclass(frozen=True)
class LtxConfig:
    """Sizes of the network; the defaults are LTX-2's. Levels are in the order in which they run."""

    latent_channels: int = LTX_2.channels
    encoder_widths: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    encoder_blocks: tuple[int, ...] = (4, 6, 6, 2, 2)
    downs: tuple[Factor, ...] = (SPACE, TIME, BOTH, BOTH)  # between the levels
    decoder_widths: tuple[int, ...] = (1024, 512, 256, 128)
    decoder_blocks: tuple[int, ...] = (5, 5, 5, 5)
    ups: tuple[Factor, ...] = (BOTH, BOTH, BOTH)
    causal: bool = False  # the decoder; the encoder always is

    def __post_init__(self) -> None:
        if len(self.ups) not in (3, 4):
            raise foreign(f"enlarge in {len(self.ups)} steps instead of 3 or 4")
        strides = self.spec.time_stride, self.spec.space_stride // PATCH, self.spec.space_stride // PATCH
        for what, factors in (("encoder", self.downs), ("decoder", self.ups)):
            made = tuple(map(math.prod, zip(*factors, strict=True)))
            if made != strides:
                raise foreign(f"have an {what} of the strides {made} instead of {strides}")

    @property
    def spec(self) -> VAESpec:
        """Which of the two it is."""
        return LTX_2 if len(self.ups) == 3 else LTX_2_3

    @property
    def shortcut(self) -> bool:
        """Whether what is enlarged is added to its own convolution."""
        return self.spec is LTX_2

    @property
    def padding(self) -> str:
        """What the decoder's convolutions see beyond the picture; the encoder's see zeros."""
        return "reflect" if self.spec is LTX_2 else "zeros"

    @classmethod
    def from_state_dict(cls, weights: Weights, *, causal: bool = False) -> LtxConfig:
        """The sizes of a checkpoint, from its original names; `causal` can't be seen in it."""
        encoder_widths, encoder_blocks, down_widths = _levels(weights, "encoder.down_blocks")
        decoder_widths, decoder_blocks, up_widths = _levels(weights, "decoder.up_blocks")
        return cls(
            latent_channels=_size(weights, "decoder.conv_in.conv.weight")[1],
            encoder_widths=encoder_widths,
            encoder_blocks=encoder_blocks,
            downs=tuple(map(_factor, encoder_widths[1:], down_widths)),
            decoder_widths=decoder_widths,
            decoder_blocks=decoder_blocks,
            ups=tuple(map(_factor, up_widths, decoder_widths[1:])),
            causal=causal,
        )


LTX_2_3_SIZES = LtxConfig(
    encoder_widths=(128, 256, 512, 1024, 1024),
    encoder_blocks=(4, 6, 4, 2, 2),
    decoder_widths=(1024, 512, 512, 256, 128),
    decoder_blocks=(2, 2, 4, 6, 4),
    ups=(BOTH, BOTH, TIME, SPACE),
)


def _levels(weights: Weights, name: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Widths and counts of a part's residual blocks, and what the convolutions between them make."""
    number = re.compile(rf"{re.escape(name)}\.(\d+)\.")
    layers = 1 + max((int(found[1]) for key in weights if (found := number.match(key))), default=0)
    if layers % 2 == 0:
        raise foreign(f"have {layers} layers named “{name}” instead of an odd number")
    widths, blocks, between = [], [], []
    for layer in range(0, layers, 2):
        start = f"{name}.{layer}.res_blocks."
        widths.append(_size(weights, f"{start}0.conv1.conv.weight")[0])
        blocks.append(len({key[len(start) :].split(".")[0] for key in weights if key.startswith(start)}))
    for layer in range(1, layers, 2):
        between.append(_size(weights, f"{name}.{layer}.conv.conv.weight")[0])
    return tuple(widths), tuple(blocks), tuple(between)


def _factor(many: int, few: int) -> Factor:
    """The factor of a layer that makes one position's `many` channels of `few` in each of several."""
    if few < 1 or many % few or many // few not in FACTORS:
        raise foreign(f"have levels of {many} and {few} channels side by side, which make no known step")
    return FACTORS[many // few]


def _size(weights: Weights, key: str) -> Sequence[int]:
    if key not in weights:
        raise foreign(f"have no “{key}”")
    entry = weights[key]
    size = entry.shape if isinstance(entry, Tensor) else entry
    if len(size) != 5:
        raise foreign(f"have a “{key}” of the shape {list(size)}, which is no convolution of videos")
    return size


def foreign(finding: str) -> InputError:
    return InputError(
        f"These weights {finding}. Choose the {LTX_2.name} VAE ({LTX_2.files}) "
        f"or the {LTX_2_3.name} VAE ({LTX_2_3.files})."
    )
