"""The end of a convolution to a few channels: the sum of its taps, each already a product."""

from ..dispatch import by_device
from . import reference

sum_of_taps = by_device(reference.sum_of_taps)

__all__ = ["sum_of_taps"]
