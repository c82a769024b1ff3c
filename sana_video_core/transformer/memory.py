"""What the past leaves behind in each block. Immutable; never written to.

B batch, A heads, d head size, D width, S tokens per latent frame. A memory is a plain tuple with one record
per block, so that it is the same thing on a socket, in a compiled function and in a file. `None` stands for
an empty memory.

`BlockMemory` is all that streams, states and their files know of a record. This family's blocks keep sums and
a tail; another family's may keep a recurrent state, or keys and values, block by block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, overload

import torch
from torch import Tensor

from ..errors import InputError, StateError
from .ops import KeyValueSum


class MemorySize(NamedTuple):
    """What the sizes of a block's memory follow from."""

    batch: int
    heads: int
    head_dim: int
    area: int  # tokens per latent frame


class BlockMemory(Protocol):
    """One block's memory, of any kind."""

    @property
    def size(self) -> MemorySize:
        """The sizes that its tensors show."""
        ...

    @property
    def window(self) -> int | None:
        """How many earlier chunks it looks back on; None for all of them."""
        ...

    def named_tensors(self) -> dict[str, Tensor]:
        """All of its tensors, under the names that a state's file gives them."""
        ...

    def to(self, device: torch.device | str) -> BlockMemory:
        """The same on another device; tensors that are there already are shared."""
        ...

    def advance(self, contribution: Any) -> BlockMemory:
        """The memory after one more chunk, as new tensors.

        `contribution` is what the block's own forward returned.
        """
        ...

    def check(self, size: MemorySize, chunks: int) -> None:
        """Raises ValueError unless every tensor has the shape and type of a memory of `size` after `chunks`
        chunks.
        """
        ...


class Contribution(NamedTuple):
    """What one chunk leaves behind in a block that keeps sums and a tail."""

    sums: KeyValueSum
    tail: Tensor  # [B, D, 1, S] the last latent frame before the temporal convolution, compute dtype


class SumMemory(NamedTuple):
    """Running sums over all chunks, and a tail: constant in size.

    The sums are float32 whatever the compute dtype.
    """

    vk: Tensor  # [B, A, d, d] running sum of v k~^T, float32
    ksum: Tensor  # [B, A, d] running sum of the unrotated k, float32
    tail: Tensor  # [B, D, 1, S], as in Contribution

    @property
    def past(self) -> KeyValueSum:
        return KeyValueSum(self.vk, self.ksum)

    @property
    def size(self) -> MemorySize:
        return _size(self.past, self.tail)

    @property
    def window(self) -> None:
        return None

    def named_tensors(self) -> dict[str, Tensor]:
        return self._asdict()

    def to(self, device: torch.device | str) -> SumMemory:
        return SumMemory(*(tensor.to(device) for tensor in self))

    def advance(self, contribution: Contribution) -> SumMemory:
        return SumMemory(*(self.past + contribution.sums), contribution.tail)

    def check(self, size: MemorySize, chunks: int) -> None:
        _check(size, [self.past], self.tail)


class WindowMemory(NamedTuple):
    """The sums of the last `window` chunks, and a tail. A sum cannot forget, so each chunk keeps its own."""

    sums: tuple[KeyValueSum, ...]  # oldest first, at most `window`
    tail: Tensor  # [B, D, 1, S], as in Contribution
    window: int

    @property
    def past(self) -> KeyValueSum:
        # oldest first, always: the order of a float sum is part of its value
        total = self.sums[0]
        for chunk in self.sums[1:]:
            total = total + chunk
        return total

    @property
    def size(self) -> MemorySize:
        return _size(self.sums[0], self.tail)

    def named_tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for i, (vk, ksum) in enumerate(self.sums):
            tensors |= {f"sums.{i}.vk": vk, f"sums.{i}.ksum": ksum}
        return tensors | {"tail": self.tail}

    def to(self, device: torch.device | str) -> WindowMemory:
        sums = tuple(KeyValueSum(vk.to(device), ksum.to(device)) for vk, ksum in self.sums)
        return WindowMemory(sums, self.tail.to(device), self.window)

    def advance(self, contribution: Contribution) -> WindowMemory:
        return WindowMemory((*self.sums, contribution.sums)[-self.window :], contribution.tail, self.window)

    def check(self, size: MemorySize, chunks: int) -> None:
        if len(self.sums) != min(self.window, chunks):
            raise ValueError(f"a memory holds {len(self.sums)} sums")
        _check(size, self.sums, self.tail)


BlockSums: TypeAlias = SumMemory | WindowMemory  # what this family's blocks read
Memory: TypeAlias = tuple[BlockMemory, ...]


def first_memory(contribution: Contribution, window: int | None) -> BlockSums:
    """A block's memory after its first chunk."""
    if window is None:
        return SumMemory(*contribution.sums, contribution.tail)
    return WindowMemory((contribution.sums,), contribution.tail, window)


def block_memory(tensors: Mapping[str, Tensor], window: int | None) -> BlockMemory:
    """The memory that `named_tensors` named. Raises KeyError for a name that is missing."""
    if window is None:
        return SumMemory(*(tensors[name] for name in SumMemory._fields))
    count = sum(1 for name in tensors if name.startswith("sums.") and name.endswith(".vk"))
    sums = tuple(KeyValueSum(tensors[f"sums.{i}.vk"], tensors[f"sums.{i}.ksum"]) for i in range(count))
    return WindowMemory(sums, tensors["tail"], window)


@overload
def memory_to(memory: Memory, device: torch.device | str) -> Memory: ...
@overload
def memory_to(memory: None, device: torch.device | str) -> None: ...
def memory_to(memory: Memory | None, device: torch.device | str) -> Memory | None:
    """The memory on another device. Tensors that are there already are shared, not copied."""
    return None if memory is None else tuple(block.to(device) for block in memory)


def memory_tensors(memory: Memory | None) -> list[Tensor]:
    """All tensors of a memory, block by block."""
    return [tensor for block in memory or () for tensor in block.named_tensors().values()]


def memory_bytes(memory: Memory | None) -> int:
    """Bytes that a memory's tensors take (152.6 MiB at 480 x 832 in bfloat16)."""
    return sum(tensor.numel() * tensor.element_size() for tensor in memory_tensors(memory))


def check_window(memory: Memory | None, window: int | None) -> None:
    """Raises when a window is impossible, or isn't the one that the memory was made with."""
    if window is not None and window < 1:
        raise InputError(
            f"A window of {window} chunks was asked for; use at least 1, or none for the whole past."
        )
    if memory and memory[0].window != window:
        raise StateError(
            f"This memory was made with {_window_words(memory[0].window)}, but the step asks for "
            f"{_window_words(window)}. A sum cannot be cut later: keep one setting from the first chunk on."
        )


def _window_words(window: int | None) -> str:
    return "no window" if window is None else f"a window of {window} chunks"


def _size(sums: KeyValueSum, tail: Tensor) -> MemorySize:
    batch, heads, head_dim, _ = sums.vk.shape
    return MemorySize(batch, heads, head_dim, tail.shape[-1])


def _check(size: MemorySize, sums: tuple[KeyValueSum, ...] | list[KeyValueSum], tail: Tensor) -> None:
    batch, heads, head_dim, area = size
    for vk, ksum in sums:
        _check_tensor("vk", vk, [batch, heads, head_dim, head_dim])
        _check_tensor("ksum", ksum, [batch, heads, head_dim])
    if not tail.is_floating_point():
        raise ValueError(f"tail is of type {tail.dtype}")
    _check_tensor("tail", tail.float(), [batch, heads * head_dim, 1, area])


def _check_tensor(name: str, tensor: Tensor, shape: list[int]) -> None:
    if list(tensor.shape) != shape or tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype} of shape {list(tensor.shape)} instead of {shape}")
