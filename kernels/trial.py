"""Whether the kernels run on a device, and compute what the plain versions do: tried once, on small tensors.

A Triton without a compiler, one that is too old, a GPU that nobody has tried: all this shows when a model is
loaded, not in the middle of a video.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from . import (
    causal_frames,
    clip_frames,
    fp8_gemm,
    gated_attention,
    gated_depthwise,
    gated_product,
    linear_attention,
    residual_mix,
    residual_norm,
    tap_sum,
    temporal_taps,
)
from .causal_frames import reference as plain_frames
from .clip_frames import reference as plain_clips
from .fp8_gemm import reference as plain_fp8
from .gated_attention import reference as plain_gated
from .gated_depthwise import reference as plain_depthwise
from .gated_product import reference as plain_product
from .linear_attention import reference as plain_attention
from .residual_mix import reference as plain_mix
from .residual_norm import reference as plain_norm
from .tap_sum import reference as plain_tap_sum
from .temporal_taps import reference as plain_taps

TOKENS, HEADS = 16, 20  # the published models' number of heads: kernels are compiled for it
ALLOWED = 0.05  # relative error; bfloat16 has up to 0.01


@functools.cache
def kernel_trial(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Empty, or why the kernels of a transformer's block cannot be used there. OutOfMemoryError is raised."""
    return _tried(_block_operations(device, dtype, head_dim))


@functools.cache
def gated_trial(device: torch.device, dtype: torch.dtype, head_dims: tuple[int, int]) -> str:
    """The same for a block with gated attention; head sizes of its linear and its softmax layers."""
    return _tried(_gated_operations(device, dtype, *head_dims))


@functools.cache
def fp8_trial(device: torch.device) -> str:
    """The same for GEMMs in 8 bits: no document says which PyTorch has them for which GPU."""
    return _tried(_fp8_operations(device))


@functools.cache
def frames_trial(device: torch.device, dtype: torch.dtype) -> str:
    """The same for the kernels of a causal VAE."""
    return _tried(_frame_operations(device, dtype))


def _tried(operations: Iterator[tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]]) -> str:
    try:
        for fast, plain, arguments in operations:
            for result, truth in zip(_tensors(fast(*arguments)), _tensors(plain(*arguments)), strict=True):
                error = (result.double() - truth.double()).norm() / truth.double().norm()
                if not error <= ALLOWED:
                    return f"{plain.__name__} computes something else on this device (by {float(error):.0%})"
    except torch.OutOfMemoryError:
        raise  # says nothing about the device
    except Exception as error:  # compilers and drivers fail in many ways; the reason says how
        lines = str(error).strip().splitlines()
        return f"a trial failed with {type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    return ""


def _block_operations(device: torch.device, dtype: torch.dtype, head_dim: int):
    width = HEADS * head_dim

    wave = functools.partial(_wave, device, dtype)
    x, branch = wave(1, TOKENS, width, shift=0), wave(1, TOKENS, width, shift=1)
    table = wave(1, 2, width, shift=2)
    yield residual_norm.residual_norm, plain_norm.residual_norm, (x, branch, table, table, table, 1e-6)
    bias = wave(width, shift=4)
    yield residual_norm.residual_norm, plain_norm.residual_norm, (x, None, None, table, table, 1e-6, bias)
    yield residual_norm.gated_residual, plain_norm.gated_residual, (x, branch, table, x, bias)
    wide = wave(1, TOKENS, 2 * width, shift=3)
    bias, weight = wave(2 * width, shift=4), wave(2 * width, 1, 3, 3, shift=5)
    arguments = (wide, bias, weight, bias, 4, TOKENS // 4)
    yield gated_depthwise.gated_depthwise, plain_depthwise.gated_depthwise, arguments
    three = wave(TOKENS, width, 3, 1, shift=10)
    yield temporal_taps.temporal_taps, plain_taps.temporal_taps, (three,)
    qkv, norm = wave(1, TOKENS, 3 * width, shift=6), wave(width, shift=7)
    angles = wave(TOKENS, head_dim // 2, shift=8).float()
    rotary = angles.cos(), angles.sin()
    fast, plain = linear_attention, plain_attention
    yield fast.key_value_sum, plain.key_value_sum, (qkv, norm, rotary, HEADS, 1e-5)
    total = plain.key_value_sum(qkv, norm, rotary, HEADS, 1e-5)
    yield fast.query_rows, plain.query_rows, (qkv, norm, rotary, total.ksum, HEADS, 1e-5, 1e-8)
    yield fast.folded_weight, plain.folded_weight, (wave(TOKENS, width, shift=9), total)


def _gated_operations(device: torch.device, dtype: torch.dtype, linear: int, softmax: int):
    width = HEADS * linear
    wave = functools.partial(_wave, device, dtype)
    x, branch, extra = (wave(1, TOKENS, width, shift=shift) for shift in range(3))
    table, readers = wave(1, 2, width, shift=3), wave(3, width, shift=4).float() * width**-0.5
    others = [plain_mix.Source(branch, wave(1, TOKENS, 3, shift=5).float())]
    first = x, None, None, None, [], readers, 0, table, table, 1e-6, 1e-6, True, True
    yield residual_mix.residual_mix, plain_mix.residual_mix, first
    for options in ((True, True), (False, False)):
        mixed = x, branch, table, extra, others, readers, 1, table, table, 1e-6, 1e-6, *options
        yield residual_mix.residual_mix, plain_mix.residual_mix, mixed
    yield residual_norm.gated_residual, plain_norm.gated_residual, (x, branch, table)
    for name in ("silu_product", "sigmoid_product"):
        yield getattr(gated_product, name), getattr(plain_product, name), (x, branch)
    qkv, norm = wave(1, TOKENS, 3 * width, shift=6), wave(width, shift=7)
    fast, plain = gated_attention, plain_gated
    for head, heads, strength in (
        (linear, HEADS, wave(1, TOKENS, HEADS, shift=8)),
        (softmax, HEADS * linear // softmax, None),
    ):
        angles = wave(TOKENS, head // 2, shift=9).float()
        arguments = qkv[..., : 3 * head * heads], 1, norm[: head * heads], (angles.cos(), angles.sin()), heads
        yield fast.rotated_rows, plain.rotated_rows, (*arguments, 1e-5, strength)
    total = plain.key_value_product(x, branch, HEADS)
    yield fast.key_value_product, plain.key_value_product, (x, branch, HEADS)
    yield fast.gated_heads, plain.gated_heads, (x, total, norm[:linear], branch, 1e-5)


def _frame_operations(device: torch.device, dtype: torch.dtype):
    wave = functools.partial(_wave, device, dtype)
    rows, columns, channels = 6, 10, 96
    past, gamma, bias = (
        wave(1, 2, rows, columns, channels, shift=0),
        wave(channels, shift=1),
        wave(channels, shift=2),
    )
    small = wave(1, 2, rows // 2 + 1, columns // 2 + 1, 4 * channels, shift=3)
    yield causal_frames.summed, plain_frames.summed, (plain_frames.Parts(small, bias, None, True),)
    x, residual = (wave(1, 2, rows, columns, channels, shift=shift) for shift in (4, 5))
    parts = plain_frames.Parts(x, bias, residual)
    for name, options in (
        ("causal_frames", {"stacked": False}),
        ("causal_frames", {"stacked": True}),
        ("paired_frames", {}),
    ):
        fast, plain = (_with(getattr(module, name), **options) for module in (causal_frames, plain_frames))
        yield fast, plain, (parts, past, gamma)
    first, middle, crossed, last = (wave(1, 1, rows, columns, channels, shift=shift) for shift in range(4))
    four = first, middle, crossed, last
    yield causal_frames.summed, plain_frames.summed, (plain_frames.Parts(four, bias),)
    planes = wave(3, 3, 3, 3, 1, 3, rows, columns, shift=6)
    yield tap_sum.sum_of_taps, plain_tap_sum.sum_of_taps, (planes, wave(3, shift=7))
    yield from _clip_operations(wave)


def _clip_operations(wave: Callable[..., Tensor]):
    """A position that became four, with a border; a residual of two parts, three frames side by side; pairs
    of pairs.
    """
    rows, columns, channels = 3, 5, 96
    bias, past = wave(4 * channels, shift=2), wave(1, 2, 2 * rows, 2 * columns, channels, shift=3)
    x, residual = (wave(1, 2, rows, columns, 4 * channels, shift=shift) for shift in (0, 1))
    enlarged = plain_clips.Pending(x, bias, None, residual, (1, 2, 2))
    yield clip_frames.clip_sum, plain_clips.clip_sum, (enlarged,)
    plain = plain_clips.Pending(x, bias, residual[:, :1], residual[:, 1:])
    for pending, kept, layout in (
        (enlarged, past, "reflect"),
        (plain, None, "stacked"),
        (plain._replace(x=(x, bias * x, x - bias, x * x), old=residual, new=residual), None, "paired"),
    ):
        options = {"front": 1, "last": True, "active": True, layout: True}
        fast, truth = (_with(module.clip_frames, **options) for module in (clip_frames, plain_clips))
        yield fast, truth, (pending, kept)


def _with(version: Callable[..., Any], **options: int) -> Callable[..., Any]:
    return functools.wraps(version)(functools.partial(version, want_total=True, **options))


def _wave(device: torch.device, dtype: torch.dtype, *shape: int, shift: float) -> Tensor:
    """Varied numbers, without touching a random generator."""
    count = torch.Size(shape).numel()
    return torch.arange(count, device=device).mul(0.7).add(shift).sin().view(shape).to(dtype)


def _fp8_operations(device: torch.device):
    x = torch.arange(TOKENS * 64, device=device).mul(0.7).sin().view(TOKENS, 64).to(torch.bfloat16)
    rows = plain_fp8.fp8_rows(x)
    yield fp8_gemm.fp8_gemm, plain_fp8.fp8_gemm, (rows, rows, x[:, 0].clone(), torch.bfloat16)

    def restored(version: Callable[[Tensor], fp8_gemm.Fp8Rows]) -> Callable[[Tensor], Tensor]:
        @functools.wraps(version)
        def run(x: Tensor) -> Tensor:
            values, scales = version(x)
            return values.float() * scales

        return run

    yield restored(fp8_gemm.fp8_rows), restored(plain_fp8.fp8_rows), (x,)


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if result is None:
        return []
    return [tensor for part in result for tensor in _tensors(part)]
