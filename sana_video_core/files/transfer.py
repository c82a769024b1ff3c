"""Tensors on their way from a device to the CPU, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from ..arriving import Arriving

T = TypeVar("T")


class Transfer:
    """A copy of a tensor to the CPU, together with a flag, in one piece of pinned memory.

    Making it asks the device for the copy and returns. Until it arrived, the device works on.
    """

    def __init__(self, values: Tensor, flag: Tensor) -> None:
        """`flag` is a bool [] on the same device as the `values`."""
        self._shape, self._dtype = values.shape, values.dtype
        whole = torch.cat([part.reshape(-1).view(torch.uint8) for part in (values.detach(), flag)])
        # the flag last, because wider values begin at an address of their own kind
        self._bytes = Arriving(whole)

    def arrived(self) -> tuple[Tensor, bool]:
        """Waits for the copy: the values on the CPU, and the flag."""
        whole = self._bytes.wait()
        return whole[:-1].view(self._dtype).view(self._shape), bool(whole[-1])


def one_behind(items: Iterable[T | None]) -> Iterator[T]:
    """The items, each after the next one has been made, so that a device has work while one is waited for.

    If making one fails, the last one comes before the error; so it does before a None, which says that the
    next may take long.
    """
    source, waiting = iter(items), list[T]()
    while True:
        try:
            item = next(source)
        except StopIteration:
            yield from waiting
            return
        except BaseException:
            yield from waiting
            raise
        yield from waiting
        waiting = [] if item is None else [item]


def arriving(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors on the CPU. While one is copied, the next is computed."""
    sent = (Transfer(tensor, torch.ones((), dtype=torch.bool, device=tensor.device)) for tensor in tensors)
    for transfer in one_behind(sent):
        yield transfer.arrived()[0]
