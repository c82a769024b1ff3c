"""The weight of the temporal convolution, as three matrices of rows that GEMMs read fast."""

from ..dispatch import by_device
from . import reference

temporal_taps = by_device(reference.temporal_taps)

__all__ = ["temporal_taps"]
