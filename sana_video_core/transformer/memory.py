"""What a block remembers of the past, as immutable values.

B batch, A heads, d head size, D width, S tokens per latent frame. A model's memory is a plain tuple with one
record per block, so it is the same on a socket, in a compiled function and in a file. `None` is empty.

Streams, states and their files only know `BlockMemory`. This family's blocks keep sums and a tail; those of
another family may keep a recurrent state, or keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, overload

import torch
from torch import Tensor

from ..errors import InputError, StateError
from .ops import KeyValueSum


class MemorySize(NamedTuple):
    """What determines the shapes of a block's memory."""

    batch: int
    heads: int
    head_dim: int
    area: int  # tokens per latent frame


class BlockMemory(Protocol):
    """One block's memory, of any kind."""

    @property
    def size(self) -> MemorySize:
        """The sizes, as its tensors show them."""
        ...

    @property
    def window(self) -> int | None:
        """How many earlier chunks it looks back on; None for all of them."""
        ...

    def named_tensors(self) -> dict[str, Tensor]:
        """All its tensors, under their names in a state file."""
        ...

    def to(self, device: torch.device | str) -> BlockMemory:
        """The same memory on another device; tensors that are already there are shared."""
        ...

    def advance(self, contribution: Any) -> BlockMemory:
        """The memory after one more chunk, as new tensors. The block's forward made `contribution`."""
        ...

    def check(self, size: MemorySize, chunks: int) -> None:
        """Raises ValueError unless the tensors are those of a memory of `size` after `chunks` chunks."""
        ...


class BlockContribution(Protocol):
    """What one chunk adds to a block's memory, of the same kind as it."""

    def begin(self, window: int | None) -> BlockMemory:
        """The block's memory after its first chunk, as new tensors."""
        ...


class Contribution(NamedTuple):
    """What one chunk adds to a block's memory of sums and a tail."""

    sums: KeyValueSum
    tail: Tensor  # [B, D, 1, S] the last latent frame before the temporal convolution, compute dtype; a view

    def begin(self, window: int | None) -> BlockSums:
        if window is None:
            return SumMemory(*self.sums, self.kept_tail())
        return WindowMemory((self.sums,), self.kept_tail(), window)

    def kept_tail(self) -> Tensor:
        """The tail in memory of its own: the view would keep the whole chunk alive."""
        return self.tail.clone()


class SumMemory(NamedTuple):
    """Running sums over all chunks, float32 whatever the compute dtype, and a tail: constant in size."""

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
        return SumMemory(*(self.past + contribution.sums), contribution.kept_tail())

    def check(self, size: MemorySize, chunks: int) -> None:
        _check(size, [self.past], self.tail)


class WindowMemory(NamedTuple):
    """The sums of each of the last `window` chunks (a total cannot forget one), and a tail."""

    sums: tuple[KeyValueSum, ...]  # oldest first, at most `window`
    tail: Tensor  # [B, D, 1, S], as in Contribution
    window: int

    @property
    def past(self) -> KeyValueSum:
        # always oldest first: a float sum depends on its order
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
        sums = (*self.sums, contribution.sums)[-self.window :]
        return WindowMemory(sums, contribution.kept_tail(), self.window)

    def check(self, size: MemorySize, chunks: int) -> None:
        if len(self.sums) != min(self.window, chunks):
            raise ValueError(f"sums are {len(self.sums)} instead of {min(self.window, chunks)}")
        _check(size, self.sums, self.tail)


BlockSums: TypeAlias = SumMemory | WindowMemory  # what this family's blocks read
Memory: TypeAlias = tuple[BlockMemory, ...]


def block_memory(tensors: Mapping[str, Tensor], window: int | None) -> BlockMemory:
    """The inverse of `named_tensors`. Raises KeyError if a name is missing."""
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
    """The memory on another device; tensors that are already there are shared."""
    return None if memory is None else tuple(block.to(device) for block in memory)


def memory_tensors(memory: Memory | None) -> list[Tensor]:
    """All tensors of a memory, block by block."""
    return [tensor for block in memory or () for tensor in block.named_tensors().values()]


def memory_bytes(memory: Memory | None) -> int:
    """Size of a memory in bytes (152.6 MiB at 480 x 832 in bfloat16)."""
    return sum(tensor.numel() * tensor.element_size() for tensor in memory_tensors(memory))


def check_window(memory: Memory | None, window: int | None) -> None:
    """Raises for an impossible window, or one that the memory wasn't made with."""
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
    if sums.vk.ndim != 4 or not tail.ndim:
        raise ValueError(f"vk is of shape {list(sums.vk.shape)} beside a tail of {list(tail.shape)}")
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
