"""Tensors on their way between CPU and GPU. Neither way waits for what the GPU has still to do."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor on `device`. A GPU gets it from pinned memory, because other copies wait for its queue."""
    device = torch.device(device)
    if device.type != "cuda" or torch.compiler.is_compiling():  # compilers don't know pinned memory
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Arriving:
    """A tensor on its way to the CPU, from when it was made."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._event = tensor, None
        if tensor.is_cuda:
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event(blocking=True)  # leaves the core to others while it waits
            self._event.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """The tensor, when it is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensor
