"""A function and its backward pass as one CUDA graph: thousands of small kernels without launch costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

WARM = 3  # calls before the recording, in which libraries choose their kernels


class Graph:
    """Replays `function(*inputs)`, whose first result is a loss, and the gradients of `module` for it.

    Inputs keep their shapes; the next call overwrites the results. Without a GPU it just calls the function.
    """

    def __init__(self, function: Callable[..., Sequence[Any]], module: nn.Module) -> None:
        self.function, self.parameters = function, list(module.parameters())
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.results: Sequence[Any] = ()
        self.gradients: list[Tensor | None] = []

    def __call__(self, *inputs: Tensor) -> Sequence[Any]:
        """Returns the results, and leaves the gradients in the parameters."""
        if not inputs[0].is_cuda:
            results = self.function(*inputs)
            results[0].backward()
            return results
        self.graph = self.graph or self._record(inputs)
        torch._foreach_copy_(self.inputs, list(inputs))
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.results

    def _record(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        self.inputs = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self._clear()
                self.function(*self.inputs)[0].backward()
        torch.cuda.current_stream().wait_stream(side)
        self._clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.results = self.function(*self.inputs)
            self.results[0].backward()
        self.gradients = [parameter.grad for parameter in self.parameters]
        self._clear()
        return graph

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
