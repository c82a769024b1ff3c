"""What a checkpoint of SANA-Video 2.0 says of itself. Its layers show all sizes but three.

Those are the heads of the softmax layers and of the cross-attention, and the group of the attention
residuals: by the config, or as in the published model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import SANA_VIDEO2_720P, Sana2Config
from ..errors import FileError
from .description import checked_depth, shape_of, whole_number

MARK = "attn_res."  # how the names of the residual vectors begin, which no other network has
BETA = re.compile(r"blocks\.(\d{1,6})\.attn\.beta_proj\.weight")
QKV = re.compile(r"blocks\.(\d{1,6})\.attn\.qkv\.weight")
SOFTMAX_TO_LINEAR = 2  # sizes of heads, as published


def is_sana2(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors under original names are of SANA-Video 2.0's network."""
    return any(name.startswith(MARK) or BETA.fullmatch(name) for name in tensors)


def sizes2_of(tensors: Mapping[str, Tensor], entries: Mapping[str, Any], path: Path) -> Sana2Config:
    """The sizes that the tensors and the config show. `entries` may be ours or those of the original.

    Raises FileError for a file with fewer or more blocks than the config or the published model has.
    """
    width, channels, _, patch, _ = shape_of(tensors, "x_embedder.proj.weight", 5, path)
    ffn_hidden, _ = shape_of(tensors, "blocks.0.mlp.gate_proj.weight", 2, path)
    _, caption_channels = shape_of(tensors, "y_embedder.y_proj.fc1.weight", 2, path)
    linear = _layers(BETA, tensors)
    first = min(linear, default=0)
    (head,) = shape_of(tensors, f"blocks.{first}.attn.o_norm.weight", 1, path)
    known = SANA_VIDEO2_720P.config
    assert isinstance(known, Sana2Config)
    shown = {"channels": channels, "patch": patch, "width": width, "ffn_hidden": ffn_hidden, "head_dim": head}
    published = all(getattr(known, name) == size for name, size in shown.items())

    def entry(*keys: str) -> int | None:
        return next((n for key in keys if (n := whole_number(entries, key, path)) is not None), None)

    depth, softmax_head = entry("num_layers", "depth"), entry("softmax_head_dim")
    depth = checked_depth(tensors, known.depth if depth is None and published else depth, path)
    group = entry("attn_res_block_size")
    return Sana2Config(
        **shown,
        caption_channels=caption_channels,
        depth=depth,
        softmax_head_dim=SOFTMAX_TO_LINEAR * head if softmax_head is None else softmax_head,
        cross_head_dim=_cross_head(width, entry("cross_attention_head_dim"), entry("num_heads"), path),
        group=known.group if group is None else group,
        softmax_layers=tuple(sorted(_layers(QKV, tensors) - linear)),
    )


def _layers(pattern: re.Pattern[str], tensors: Mapping[str, Tensor]) -> set[int]:
    return {int(match[1]) for name in tensors if (match := pattern.fullmatch(name))}


def _cross_head(width: int, head: int | None, heads: int | None, path: Path) -> int:
    """The head size of the cross-attention: by the config, else that of the published models."""
    if head is not None:
        return head
    if heads is not None and heads > 0:
        return width // heads
    published = SANA_VIDEO2_720P.config.cross_head_dim
    if width % published:
        raise FileError(
            f"“{path.name}” does not say how many heads its cross-attention has, and its width {width} is "
            f"not a multiple of the published {published}. Put the model's config.json beside it, or give "
            "one (--config)."
        )
    return published
