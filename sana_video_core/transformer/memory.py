"""What the past leaves behind in each block: running sums and one tail. Immutable; never written to.

B batch, A heads, d head size, D width, S tokens per latent frame. The sums are float32 whatever the compute dtype.
A memory is a plain tuple with one record per block, so that it is the same thing on a socket, in a compiled
function and in a file. `None` stands for an empty memory.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, overload

import torch
from torch import Tensor

from ..errors import InputError, StateError
from .ops import KeyValueSum


class BlockState(NamedTuple):
    """One block's memory of everything before: constant in size."""

    vk: Tensor  # [B, A, d, d] running sum of v k~^T, float32
    ksum: Tensor  # [B, A, d] running sum of the unrotated k, float32
    tail: Tensor  # [B, D, 1, S] the last latent frame before the temporal convolution, compute dtype

    @property
    def past(self) -> KeyValueSum:
        return KeyValueSum(self.vk, self.ksum)

    def followed_by(self, own: KeyValueSum, tail: Tensor) -> BlockState:
        """The memory after one more chunk, as new tensors."""
        return BlockState(*(self.past + own), tail)

    def moved(self, device: torch.device | str) -> BlockState:
        return BlockState(*(tensor.to(device) for tensor in self))


class WindowBlockState(NamedTuple):
    """One block's memory of the last `window` chunks. A sum cannot forget, so each chunk's own is kept."""

    sums: tuple[KeyValueSum, ...]  # oldest first, at most `window`
    tail: Tensor  # [B, D, 1, S], as in BlockState
    window: int

    @property
    def past(self) -> KeyValueSum:
        # oldest first, always: the order of a float sum is part of its value
        total = self.sums[0]
        for own in self.sums[1:]:
            total = total + own
        return total

    def followed_by(self, own: KeyValueSum, tail: Tensor) -> WindowBlockState:
        return WindowBlockState((*self.sums, own)[-self.window :], tail, self.window)

    def moved(self, device: torch.device | str) -> WindowBlockState:
        sums = tuple(KeyValueSum(*(tensor.to(device) for tensor in own)) for own in self.sums)
        return WindowBlockState(sums, self.tail.to(device), self.window)


Memory: TypeAlias = tuple[BlockState, ...] | tuple[WindowBlockState, ...]


def first_block_state(own: KeyValueSum, tail: Tensor, window: int | None) -> BlockState | WindowBlockState:
    """The memory of a block after its first chunk."""
    return BlockState(*own, tail) if window is None else WindowBlockState((own,), tail, window)


def memory_window(memory: Memory) -> int | None:
    """How many earlier chunks the memory looks back on; None for all of them."""
    first = memory[0]
    return first.window if isinstance(first, WindowBlockState) else None


@overload
def memory_to(memory: Memory, device: torch.device | str) -> Memory: ...
@overload
def memory_to(memory: None, device: torch.device | str) -> None: ...
def memory_to(memory: Memory | None, device: torch.device | str) -> Memory | None:
    """The memory on another device. Tensors that are there already are shared, not copied."""
    return None if memory is None else tuple(block.moved(device) for block in memory)  # pyright: ignore[reportReturnType]


def memory_tensors(memory: Memory | None) -> list[Tensor]:
    """All tensors of a memory, block by block."""
    tensors: list[Tensor] = []
    for block in memory or ():
        if isinstance(block, BlockState):
            tensors.extend(block)
        else:
            tensors.extend(tensor for own in block.sums for tensor in own)
            tensors.append(block.tail)
    return tensors


def memory_bytes(memory: Memory | None) -> int:
    """Bytes that a memory's tensors take (152.6 MiB at 480 x 832 in bfloat16)."""
    return sum(tensor.numel() * tensor.element_size() for tensor in memory_tensors(memory))


def check_window(memory: Memory | None, window: int | None) -> None:
    """Raises when a window is impossible, or is not the one that the memory was made with."""
    if window is not None and window < 1:
        raise InputError(
            f"A window of {window} chunks was asked for; use at least 1, or none for the whole past."
        )
    if memory is not None and memory_window(memory) != window:
        made = memory_window(memory)
        raise StateError(
            f"This memory was made with {_window_words(made)}, but the step asks for {_window_words(window)}. "
            "A sum cannot be cut later: keep one setting from the first chunk on."
        )


def _window_words(window: int | None) -> str:
    return "no window" if window is None else f"a window of {window} chunks"
