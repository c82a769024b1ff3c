"""A gated residual, and the modulated LayerNorm behind it."""

from ..dispatch import by_device
from . import reference

gated_residual = by_device(reference.gated_residual)
gated_residual_fp8 = by_device(reference.gated_residual_fp8)
residual_norm = by_device(reference.residual_norm)
residual_norm_fp8 = by_device(reference.residual_norm_fp8)

__all__ = ["gated_residual", "gated_residual_fp8", "residual_norm", "residual_norm_fp8"]
