"""What comes before the blocks: patches, the timestep, the caption. Parameter names are the original's.

B batch, C channels, F latent frames, H W latent rows and columns, N tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TransformerConfig
from .positions import TIMESTEP_DIMENSIONS, timestep_features


class PatchEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        kernel = (1, config.patch, config.patch)
        self.proj = ops.Conv3d(config.channels, config.width, kernel, stride=kernel, **place)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, C, F, H, W] -> tokens [B, N, D] in the order time, row, column."""
        return self.proj(latents).flatten(2).transpose(1, 2).contiguous()


class TimestepEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        width = config.width
        self.mlp = nn.Sequential(
            ops.Linear(TIMESTEP_DIMENSIONS, width, **place), nn.SiLU(), ops.Linear(width, width, **place)
        )

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        return self.mlp(timestep_features(timesteps).to(dtype))


class CaptionProjection(nn.Module):
    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        self.fc1 = ops.Linear(config.caption_channels, config.width, **place)
        self.fc2 = ops.Linear(config.width, config.width, **place)

    def forward(self, text: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(text), approximate="tanh"))


class CaptionEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig, ops: Any, **place: Any) -> None:
        super().__init__()
        self.y_proj = CaptionProjection(config, ops, **place)
