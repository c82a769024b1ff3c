"""GEMMs in 8 bits, with one scale for each row."""

from ..dispatch import by_device
from . import reference
from .reference import Fp8Rows

fp8_gemm = by_device(reference.fp8_gemm)
fp8_rows = by_device(reference.fp8_rows)
fp8_taps = by_device(reference.fp8_taps)

__all__ = ["Fp8Rows", "fp8_gemm", "fp8_rows", "fp8_taps"]
