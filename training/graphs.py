"""A function of tensors and its backward pass as one CUDA graph: thousands of small kernels without their launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

WARM = 3  # calls before the recording: libraries choose their kernels in them


class Graph:
    """Replays `function(*inputs)`, whose first result is a loss, and the gradients of `module` for it.

    Inputs keep their shapes; results are overwritten by the next call. Without a GPU it simply calls the function.
    """

    def __init__(self, function: Callable[..., Sequence[Any]], module: nn.Module) -> None:
        self.function, self.parameters = function, list(module.parameters())
        self.graph: Any = None
        self.inputs: list[Tensor] = []
        self.results: Sequence[Any] = ()
        self.gradients: list[Tensor | None] = []

    def __call__(self, *inputs: Tensor) -> Sequence[Any]:
        """The results, with the gradients left in the parameters."""
        if not inputs[0].is_cuda:
            results = self.function(*inputs)
            results[0].backward()
            return results
        if self.graph is None:
            self._record(inputs)
        torch._foreach_copy_(self.inputs, list(inputs))
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.results

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM):
                self._clear()
                self.function(*self.inputs)[0].backward()
        torch.cuda.current_stream().wait_stream(side)
        self._clear()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = self.function(*self.inputs)
            self.results[0].backward()
        self.gradients = [parameter.grad for parameter in self.parameters]
        self._clear()

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
