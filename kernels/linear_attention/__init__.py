"""Linear attention with a carried sum: numerator from rotated features, denominator from unrotated ones."""

from .reference import KeyValueSum, linear_attention

__all__ = ["KeyValueSum", "linear_attention"]
