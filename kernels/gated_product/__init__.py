"""A product with an activated gate: silu of a SwiGLU, sigmoid of an attention's output."""

from ..dispatch import by_device
from . import reference

silu_product = by_device(reference.silu_product)
silu_product_fp8 = by_device(reference.silu_product_fp8)
sigmoid_product = by_device(reference.sigmoid_product)
sigmoid_product_fp8 = by_device(reference.sigmoid_product_fp8)

__all__ = ["sigmoid_product", "sigmoid_product_fp8", "silu_product", "silu_product_fp8"]
