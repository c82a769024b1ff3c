"""Layer classes. ComfyUI's move and cast weights; these leave them where they are."""

from typing import Any

from torch import nn


class disable_weight_init:  # noqa: N801
    Linear, Conv2d, Conv3d, LayerNorm, RMSNorm = nn.Linear, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.RMSNorm


def cast_bias_weight(s, input=None, offloadable=False) -> Any:
    return s.weight, getattr(s, "bias", None), None


def uncast_bias_weight(s, weight, bias, offload_stream):
    """Nothing to give back."""
