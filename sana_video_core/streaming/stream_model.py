"""What a stream needs of a model."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import Family, Sana2Config, TransformerConfig
from ..errors import InputError
from ..transformer.maker import Maker
from ..transformer.memory import Memory
from ..transformer.network import VideoNetwork


class StreamModel(Protocol):
    """`SanaVideo`, or a host's way to call it; `text` is whatever its `prepare_text` returned."""

    config: TransformerConfig
    family: Family
    fingerprint: str | None

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def maker(self) -> Maker: ...
    def prepare_text(self, text: Tensor, text_mask: Tensor | None = None) -> Any: ...
    def __call__(
        self, latents: Tensor, timesteps: Tensor, text: Any, *, memory: Memory | None, first_frame: int
    ) -> Tensor: ...
    def absorb(
        self, latents: Tensor, text: Any, *, memory: Memory | None, first_frame: int, window: int | None
    ) -> Memory: ...
    def state_dict(self) -> dict[str, Tensor]: ...


def check_causal(model: StreamModel | VideoNetwork[Any]) -> None:
    """Raises InputError for a model that can't stream."""
    if isinstance(model.config, Sana2Config):
        raise InputError(
            f"The model is {model.family.title}; a stream needs a block-causal one, such as LongSANA. "
            "Its softmax layers see all frames of a clip at once, so there is no memory to continue from: "
            "make clips with it (SANA-Video Sampler)."
        )
    if not model.family.causal:
        raise InputError(
            f"The model is loaded as {model.family.title}, for clips (SANA-Video Sampler); "
            "a stream needs a block-causal one. "
            "If the file is a LongSANA checkpoint, choose the family longsana_480p where it is loaded "
            "(in Load SANA-Video Model; the weights don't show it)."
        )
