"""Sizes of the networks: what a checkpoint's tensors have to look like.

Sources: the model constructors of the original repository.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes of one transformer. D = `width`, A = `heads`, d = `head_dim`."""

    channels: int
    patch: int  # latent pixels per token, each way in space; one latent frame per token in time
    width: int
    depth: int
    head_dim: int
    cross_head_dim: int
    ffn_hidden: int  # channels after the gate; the up-projection makes twice as many
    caption_channels: int

    def __post_init__(self) -> None:
        for name in ("channels", "patch", "width", "depth", "head_dim", "cross_head_dim", "ffn_hidden"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it has to be at least 1.")
        for name in ("head_dim", "cross_head_dim"):
            if self.width % getattr(self, name):
                raise InputError(
                    f"The width {self.width} is not a whole number of heads of {name} {getattr(self, name)}. "
                    "Give the head size that this model was trained with."
                )
        _check_rotary(self.head_dim)

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def rotary_split(self) -> tuple[int, int, int]:
        """Real dimensions of a head that rotate with time, row and column (112 -> 40, 36, 36)."""
        return rotary_split(self.head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sana2Config(TransformerConfig):
    """Sizes of SANA-Video 2.0. `head_dim` is that of the linear layers."""

    softmax_head_dim: int
    group: int  # layers whose sum is one source of the attention residuals
    softmax_layers: tuple[int, ...] | None = None  # None: a quarter of them, by the published rule

    def __post_init__(self) -> None:
        TransformerConfig.__post_init__(self)
        if self.group < 1:
            raise InputError(f"The residual group has {self.group} layers; it has to have at least 1.")
        if self.softmax_head_dim < 1 or self.width % self.softmax_head_dim:
            raise InputError(
                f"The width {self.width} is not a whole number of softmax heads of {self.softmax_head_dim}. "
                "Give the head size that this model was trained with."
            )
        _check_rotary(self.softmax_head_dim)
        if self.softmax_layers is None:
            count = max(1, self.depth // 4)
            rule = tuple((number + 1) * self.depth // count - 1 for number in range(count))
            object.__setattr__(self, "softmax_layers", rule)  # as dataclasses do it in a frozen class

    @property
    def softmax_rotary_split(self) -> tuple[int, int, int]:
        """`rotary_split` of a softmax head (256 -> 88, 84, 84)."""
        return rotary_split(self.softmax_head_dim)

    def is_softmax(self, layer: int) -> bool:
        return layer in (self.softmax_layers or ())

    def closes_group(self, layer: int) -> bool:
        """Whether a group ends with this layer; the last one may be shorter."""
        return (layer + 1) % self.group == 0 or layer + 1 == self.depth


def rotary_split(head_dim: int) -> tuple[int, int, int]:
    """Real dimensions of a head that rotate with time, row and column."""
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def _check_rotary(head_dim: int) -> None:
    if head_dim % 2 or head_dim < 6:
        raise InputError(
            f"The head size {head_dim} cannot carry rotary positions on three axes; "
            "it has to be even and at least 6."
        )
