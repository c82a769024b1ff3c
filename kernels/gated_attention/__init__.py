"""Linear attention without ReLU and denominator: a norm of each head and a gate hold its size."""

from ..dispatch import by_device
from . import reference

rotated_rows = by_device(reference.rotated_rows)
key_value_product = by_device(reference.key_value_product)
gated_heads = by_device(reference.gated_heads)

__all__ = ["gated_heads", "key_value_product", "rotated_rows"]
