"""The one door to the kernels: the core imports operations from here and nowhere else."""

from ..kernels.linear_attention import KeyValueSum, linear_attention

__all__ = ["KeyValueSum", "linear_attention"]
