"""The GEMMs of a fused block in the model's own dtype or in FP8, behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from . import ops
from .ops import Fp8Rows, KeyValueSum, Mixed

Weights = tuple[Tensor, Tensor | None]
# lends the weight and bias that a layer would compute with, as a host casts and patches them
WeightsOf = Callable[[nn.Module, Tensor], AbstractContextManager[Weights]]
Rows = TypeVar("Rows", Tensor, Fp8Rows)  # activations and weights as a GEMM takes them


def layer_weights(layer: nn.Module, like: Tensor) -> AbstractContextManager[Weights]:
    """The weight and bias of a plain torch layer."""
    bias = getattr(layer, "bias", None)
    return nullcontext((cast(Tensor, layer.weight), cast("Tensor | None", bias)))


def is_its_weight(layer: nn.Module, of_host: bool = False) -> bool:
    """Whether a layer does just what its class does with its weight, so that a kernel may take its place.

    It doesn't if its forward was replaced (as by ComfyUI's LoRAs in bypass mode) or hooked, or if its class
    is foreign, such as a quantised layer. A host may know more classes and kinds of weights (`of_host`): then
    every layer with a weight will do.
    """
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer) or is_parametrized(layer):
        return False
    home = type(layer).__module__
    if home.startswith(f"{__package__}."):
        return True
    of_torch = home.startswith("torch.nn.modules.")
    kinds = type(None), Tensor, nn.Parameter
    return hasattr(layer, "weight") and (of_host or (of_torch and type(layer.weight) in kinds))


class Gemm(ABC, Generic[Rows]):
    """What the fused block asks for. `Rows` is Tensor or Fp8Rows."""

    # layers of a block that are called as they are, or checked when they are used
    RUN: tuple[str, ...] = ()

    def __init__(self, weights_of: WeightsOf) -> None:
        self.weights_of, self.of_host = weights_of, weights_of is not layer_weights

    def fits(self, block: nn.Module, run: tuple[str, ...] | None = None) -> bool:
        """Whether `is_its_weight` holds for every part of a module, except those in `run`."""
        run = self.RUN if run is None else run
        return all(name in run or is_its_weight(part, self.of_host) for name, part in block.named_modules())

    @abstractmethod
    def residual(self, x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Rows]:
        """x' of kernels/residual_norm, as a tensor and as rows."""

    @abstractmethod
    def residual_norm(
        self, x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Rows]:
        """kernels/residual_norm, with h as rows."""

    @abstractmethod
    def residual_mix(self, *args: Any, **wanted: bool) -> Mixed:
        """kernels/residual_mix, with h as rows."""

    @abstractmethod
    def rows(self, x: Tensor) -> Rows:
        """A tensor as rows."""

    @abstractmethod
    def silu_product(self, x: Tensor, gate: Tensor) -> Rows:
        """kernels/gated_product, as rows."""

    @abstractmethod
    def sigmoid_product(self, x: Tensor, gate: Tensor) -> Rows:
        """kernels/gated_product, as rows."""

    @abstractmethod
    def linear(self, layer: nn.Module, x: Tensor | Rows) -> Tensor:
        """A linear layer on rows or a tensor [B, N, in]: [B, N, out]."""

    def linear_norm(
        self, out: Tensor, layer: nn.Module, rows: Tensor, shift: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Rows, Tensor | None]:
        """x' = out + layer(rows), its norm as rows, and a bias [D] that x' still lacks. x' may be `out`."""
        return *self.residual_norm(out, self.linear(layer, rows), None, shift, scale, eps), None

    @abstractmethod
    def projected(self, layer: nn.Module, queries: Tensor, total: KeyValueSum) -> Tensor:
        """A linear layer on what queries [B, N, D] read from the sums: [B, N, D]."""

    @abstractmethod
    def weight(self, weight: Tensor) -> Rows:
        """A weight [out, in] as `matmul` takes it."""

    @abstractmethod
    def matmul(
        self, rows: Tensor | Rows, weight: Rows, out: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Rows or a tensor [n, in] times a weight from `weight`, plus bias [out]: [n, out].

        In `out` if given, as torch.mm.
        """

    @abstractmethod
    def pieces(self, rows: Rows, clip: int, size: int) -> Iterator[Rows]:
        """One clip of rows [B, N, D], `size` at a time."""

    @abstractmethod
    def three_taps(self, padded: Tensor, weight: Tensor) -> Tensor:
        """The temporal convolution of padded [B, F+2, S, D] with weight [D, D, 3, 1]: [B, F*S, D]."""


class FullGemm(Gemm[Tensor]):
    """In the model's own dtype. Linear layers are called, so a host's own classes keep working."""

    RUN = ("attn.qkv", "attn.beta_proj", "attn.output_gate", "attn.proj", "cross_attn.q_linear",
           "cross_attn.kv_linear", "cross_attn.proj", "cross_attn.q_norm", "cross_attn.k_norm")  # fmt: skip

    def residual(self, x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
        x = ops.gated_residual(x, branch, gate)
        return x, x

    def residual_norm(
        self, x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return ops.residual_norm(x, branch, gate, shift, scale, eps)

    def residual_mix(self, *args: Any, **wanted: bool) -> Mixed:
        return ops.residual_mix(*args, **wanted)

    def rows(self, x: Tensor) -> Tensor:
        return x

    def silu_product(self, x: Tensor, gate: Tensor) -> Tensor:
        return ops.silu_product(x, gate)

    def sigmoid_product(self, x: Tensor, gate: Tensor) -> Tensor:
        return ops.sigmoid_product(x, gate)

    def linear(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)

    def linear_norm(
        self, out: Tensor, layer: nn.Module, rows: Tensor, shift: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if not is_its_weight(layer, self.of_host):
            return super().linear_norm(out, layer, rows, shift, scale, eps)
        with self.weights_of(layer, rows) as (weight, bias):
            out.view(-1, out.shape[-1]).addmm_(rows.flatten(0, 1), weight.T)  # one addition, in float32
            bias = None if bias is None else bias.clone()  # it is only lent
        return *ops.residual_norm(out, None, None, shift, scale, eps, bias), bias

    def projected(self, layer: nn.Module, queries: Tensor, total: KeyValueSum) -> Tensor:
        if not is_its_weight(layer, self.of_host):
            return layer(ops.read_rows(queries, total))
        out = torch.empty_like(queries)
        with self.weights_of(layer, queries) as (weight, bias):
            folded = ops.folded_weight(weight, total)
            for rows, clip_weight, target in zip(queries, folded, out, strict=True):
                if bias is None:
                    torch.mm(rows, clip_weight.T, out=target)
                else:
                    torch.addmm(bias, rows, clip_weight.T, out=target)
        return out

    def weight(self, weight: Tensor) -> Tensor:
        return weight

    def matmul(
        self, rows: Tensor, weight: Tensor, out: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        if bias is None:
            return torch.mm(rows, weight.T, out=out)
        return torch.addmm(bias, rows, weight.T, out=out)

    def pieces(self, rows: Tensor, clip: int, size: int) -> Iterator[Tensor]:
        yield from rows[clip].split(size)

    def three_taps(self, padded: Tensor, weight: Tensor) -> Tensor:
        """The sum of three GEMMs of shifted rows."""
        batch, frames, area, width = padded.shape
        taps = ops.temporal_taps(weight).permute(1, 2, 0)  # [3, in, out]
        out = padded.new_empty(batch, (frames - 2) * area, width)
        for clip in range(batch):
            first, middle, last = (padded[clip, t : frames - 2 + t].view(-1, width) for t in range(3))
            torch.mm(first, taps[0], out=out[clip])
            out[clip].addmm_(middle, taps[1]).addmm_(last, taps[2])
        return out


class Fp8Gemm(Gemm[Fp8Rows]):
    """In FP8, with one scale per row of activations and weights (kernels/fp8_gemm).

    Weights are rounded in every call, after the host has patched them: 2 ms of 300, and they are never stale.
    """

    RUN = ("attn.beta_proj", "cross_attn.kv_linear", "cross_attn.q_norm", "cross_attn.k_norm")

    def residual(self, x: Tensor, branch: Tensor, gate: Tensor | None) -> tuple[Tensor, Fp8Rows]:
        return ops.gated_residual_fp8(x, branch, gate)

    def residual_norm(
        self, x: Tensor, branch: Tensor | None, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Fp8Rows]:
        return ops.residual_norm_fp8(x, branch, gate, shift, scale, eps)

    def residual_mix(self, *args: Any, **wanted: bool) -> Mixed:
        return ops.residual_mix_fp8(*args, **wanted)

    def rows(self, x: Tensor) -> Fp8Rows:
        return ops.fp8_rows(x)

    def silu_product(self, x: Tensor, gate: Tensor) -> Fp8Rows:
        return ops.silu_product_fp8(x, gate)

    def sigmoid_product(self, x: Tensor, gate: Tensor) -> Fp8Rows:
        return ops.sigmoid_product_fp8(x, gate)

    def linear(self, layer: nn.Module, x: Tensor | Fp8Rows) -> Tensor:
        values, scales = x if isinstance(x, Fp8Rows) else ops.fp8_rows(x)
        rows = Fp8Rows(values.flatten(0, 1), scales.flatten(0, 1))
        with self.weights_of(layer, scales.new_empty(0, dtype=torch.bfloat16)) as (weight, bias):
            out = ops.fp8_gemm(rows, ops.fp8_rows(weight), bias, torch.bfloat16)
        return out.unflatten(0, values.shape[:2])

    def projected(self, layer: nn.Module, queries: Tensor, total: KeyValueSum) -> Tensor:
        out = torch.empty_like(queries)
        with self.weights_of(layer, queries) as (weight, bias):
            folded = ops.folded_weight(weight, total)
            for rows, clip_weight, target in zip(queries, folded, out, strict=True):
                ops.fp8_gemm(ops.fp8_rows(rows), ops.fp8_rows(clip_weight), bias, torch.bfloat16, target)
        return out

    def weight(self, weight: Tensor) -> Fp8Rows:
        return ops.fp8_rows(weight)

    def matmul(
        self, rows: Tensor | Fp8Rows, weight: Fp8Rows, out: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        rows = rows if isinstance(rows, Fp8Rows) else ops.fp8_rows(rows)
        return ops.fp8_gemm(rows, weight, bias, torch.bfloat16, out)

    def pieces(self, rows: Fp8Rows, clip: int, size: int) -> Iterator[Fp8Rows]:
        yield from map(Fp8Rows, rows.values[clip].split(size), rows.scales[clip].split(size))

    def three_taps(self, padded: Tensor, weight: Tensor) -> Tensor:
        """One GEMM: a row and its two neighbours in time lie side by side, so the three share a scale."""
        ready = ops.fp8_rows(ops.temporal_taps(weight).flatten(1))  # [out, 3 * in], tap by tap
        out = padded.new_empty(len(padded), (padded.shape[1] - 2) * padded.shape[2], padded.shape[3])
        for clip, target in zip(padded, out, strict=True):
            self.matmul(ops.fp8_taps(clip), ready, out=target)
        return out
