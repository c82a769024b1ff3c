"""The sizes of a Wan 2.1 VAE, given or read from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..config import WAN_2_1, VAESpec
from ..errors import InputError
from .layers import DOWN


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the network. Its four levels are `base_width` times the `multipliers` wide, finest first."""

    base_width: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    latent_channels: int = WAN_2_1.channels
    blocks: int = 2  # residual blocks per level of the encoder; the decoder has one more

    def __post_init__(self) -> None:
        if min(self.base_width, self.latent_channels, self.blocks, *self.multipliers) < 1:
            raise InputError(f"Every size of a VAE has to be at least 1, but these were given: {self}.")
        levels = len(DOWN) + 1
        if len(self.multipliers) != levels or any(width % 2 for width in self.widths[1:]):
            raise InputError(
                f"The levels of a VAE are {self.widths} channels wide; it has {levels} of them, "
                f"all but the first of an even width. Give {levels} multipliers and an even base width."
            )

    @property
    def spec(self) -> VAESpec:
        return WAN_2_1

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.base_width * multiplier for multiplier in self.multipliers)

    @classmethod
    def from_state_dict(cls, weights: Mapping[str, Tensor | Sequence[int]]) -> VAEConfig:
        """The sizes of a checkpoint, from its original names and their tensors or shapes."""
        layers = {key.split(".")[2] for key in weights if key.startswith("encoder.downsamples.")}
        blocks, rest = divmod(len(layers) - len(DOWN), len(DOWN) + 1)
        if blocks < 1 or rest:
            raise _foreign(f"have {len(layers)} layers named “encoder.downsamples” instead of 11")
        base = _out_channels(weights, "encoder.conv1.weight")
        firsts = range(0, len(layers), blocks + 1)
        widths = [_out_channels(weights, f"encoder.downsamples.{i}.residual.2.weight") for i in firsts]
        if any(width % base for width in widths):
            raise _foreign(f"have levels of {widths} channels, not multiples of the first layer's {base}")
        multipliers = tuple(width // base for width in widths)
        return cls(base, multipliers, _out_channels(weights, "conv2.weight"), blocks)


def _out_channels(weights: Mapping[str, Tensor | Sequence[int]], key: str) -> int:
    if key not in weights:
        raise _foreign(f"have no “{key}”")
    entry = weights[key]
    return (entry.shape if isinstance(entry, Tensor) else entry)[0]


def _foreign(finding: str) -> InputError:
    return InputError(
        f"These weights {finding}. Choose a Wan 2.1 VAE with the original's names; "
        "a Wan 2.2 VAE (48 channels) is another network."
    )
