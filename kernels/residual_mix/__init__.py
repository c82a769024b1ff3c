"""A residual that is a mix of earlier sums, and the modulated LayerNorm behind it."""

from ..dispatch import by_device
from . import reference
from .reference import Mixed, Source

residual_mix = by_device(reference.residual_mix)
residual_mix_fp8 = by_device(reference.residual_mix_fp8)

__all__ = ["Mixed", "Source", "residual_mix", "residual_mix_fp8"]
