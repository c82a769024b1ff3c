"""The plain version, written to be read.

Source: t_conv in diffusion/model/nets/basic_modules.py of the original.
"""

from torch import Tensor


def temporal_taps(weight: Tensor) -> Tensor:
    """A convolution's weight [O, I, 3, 1] with its taps apart: [O, 3, I]."""
    return weight.squeeze(-1).mT.contiguous()
