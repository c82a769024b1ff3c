"""A stream's passes as CUDA graphs: recorded once, and replayed with other numbers in the same places.

The launches of a pass take Python 45 ms, while in fp8 a GPU needs 70 for the pass itself. A replay takes
Python one. For networks whose weights stay where they are: a graph reads them there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .memory import Memory, memory_tensors

logger = logging.getLogger("sana_video")

ROOM = 8 * 2**30  # bytes that have to be free: a recording keeps a pass's activations


class PassInputs(NamedTuple):
    """What changes from pass to pass."""

    latents: Tensor
    timesteps: Tensor
    rotary: tuple[Tensor, ...]
    memory: Memory | None

    @property
    def pasts(self) -> Iterable[Any]:
        """The memory of each block, or None for all."""
        return repeat(None) if self.memory is None else self.memory

    def tensors(self) -> list[Tensor]:
        return [self.latents, self.timesteps, *self.rotary, *memory_tensors(self.memory)]


Pass: TypeAlias = Callable[[PassInputs], Any]  # to tensors, in any nesting of tuples and lists
# runs a function once in a recording; returns what replays it, and its outputs, which a replay fills anew
Record: TypeAlias = Callable[[Callable[[], Any]], tuple[Callable[[], object], Any]]


class GpuRecorder:
    """Records CUDA graphs on `device`, the current one by default.

    They share the memory in between, because one is replayed after the other. That memory goes with the last
    of them, so that later ones need another recorder.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        graph, stream = torch.cuda.CUDAGraph(), _stream(self._device)
        # thread_local: another thread may decode and allocate meanwhile
        options = {"pool": self._pool, "stream": stream, "capture_error_mode": "thread_local"}
        # PyTorch's block stays on its stream if a recording fails
        with torch.cuda.stream(stream), torch.cuda.graph(graph, **options):
            outputs = function()
        return graph.replay, outputs


@cache
def _stream(device: torch.device | None) -> torch.cuda.Stream:
    """The one that recordings are made on: PyTorch's own is of the first GPU, and would record nothing.

    Always the same, because libraries keep workspaces for each.
    """
    return torch.cuda.Stream(device)


def graphs_where_they_pay(device: torch.device) -> PassGraphs | None:
    """Graphs for a network whose weights stay on `device`, if it is a GPU of NVIDIA with room for them."""
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    return PassGraphs(partial(GpuRecorder, device)) if torch.cuda.mem_get_info(device)[0] >= ROOM else None


class PassGraphs:
    """Runs passes: the first of a kind as it is, the second in a recording, and from then on its replay."""

    def __init__(self, recorder: Callable[[], Record]) -> None:
        self._recorder, self._record, self._failed = recorder, recorder(), False
        self._made_for: tuple[object, ...] = ()
        self._recorded: dict[object, _Recorded | None] = {}

    def run(self, name: str, function: Pass, inputs: PassInputs, made_for: tuple[object, ...]) -> Any:
        """function(inputs). `made_for` is what it closes over: with other objects, all is recorded anew."""
        if len(made_for) != len(self._made_for) or any(
            mine is not theirs for mine, theirs in zip(self._made_for, made_for, strict=True)
        ):
            self._made_for, self._recorded, self._record = made_for, {}, self._recorder()
        key = name, *((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs.tensors())
        if key not in self._recorded:
            # it also compiles kernels and makes workspaces, which a recording can't
            self._recorded[key] = None
            return function(inputs)
        recorded = self._recorded[key] or self._recording(function, inputs)
        if recorded is None:
            return function(inputs)
        self._recorded[key] = recorded
        return recorded(inputs)

    def _recording(self, function: Pass, inputs: PassInputs) -> _Recorded | None:
        if self._failed:
            return None
        try:
            return _Recorded(function, inputs, self._record)
        except RuntimeError as error:  # memory is short, or a driver can't: no reason to lose a film
            self._failed = True
            words = str(error).strip().partition("\n")[0]
            logger.info("Passes aren't recorded as CUDA graphs, and run as they are: %s", words)
            return None


class _Recorded:
    """One recording, its inputs and its outputs. They are its own: it takes and gives copies."""

    def __init__(self, function: Pass, inputs: PassInputs, record: Record) -> None:
        self._inputs = tree_map_only(Tensor, torch.clone, inputs)
        self._memory = inputs.memory  # what is in place; a memory is a value, so the same one is equal
        self._replay, self._outputs = record(lambda: function(self._inputs))

    def __call__(self, inputs: PassInputs) -> Any:
        pairs = list(zip(self._inputs.tensors(), inputs.tensors(), strict=True))
        if inputs.memory is self._memory:
            pairs = pairs[: len(pairs) - len(memory_tensors(inputs.memory))]
        for mine, given in pairs:
            mine.copy_(given)
        self._memory = inputs.memory
        self._replay()
        return tree_map_only(Tensor, torch.clone, self._outputs)
