"""What a clip needs of a model."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..config import Family, TransformerConfig
from ..transformer.layers import PreparedText


class ClipModel(Protocol):
    """A network of the core, or a host's way to call it."""

    @property
    def config(self) -> TransformerConfig: ...
    @property
    def family(self) -> Family: ...
    @property
    def device(self) -> torch.device: ...
    def __call__(self, latents: Tensor, timesteps: Tensor, text: PreparedText, /) -> Tensor: ...
