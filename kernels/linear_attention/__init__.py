"""Linear attention with a carried sum: numerator from rotated features, denominator from unrotated ones."""

from ..dispatch import by_device
from . import reference
from .reference import KeyValueSum, linear_attention, read_rows, rotate

key_value_sum = by_device(reference.key_value_sum)
query_rows = by_device(reference.query_rows)
folded_weight = by_device(reference.folded_weight)

__all__ = [
    "KeyValueSum",
    "folded_weight",
    "key_value_sum",
    "linear_attention",
    "query_rows",
    "read_rows",
    "rotate",
]
