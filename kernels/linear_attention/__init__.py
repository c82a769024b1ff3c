"""Linear attention with a carried sum: numerator from rotated features, denominator from unrotated ones."""

from ..dispatch import by_device
from . import reference
from .reference import KeyValueSum, linear_attention, rotate

linear_self_attention = by_device(reference.linear_self_attention)

__all__ = ["KeyValueSum", "linear_attention", "linear_self_attention", "rotate"]
