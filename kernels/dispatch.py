"""Which version of an operation runs, and why not the other one.

auto takes Triton where it can run; reference is the plain version, everywhere; triton is asked for by name and says what is
missing. The environment variable SANA_VIDEO_KERNELS stands in for auto. fp8 is a precision of the products between Triton
kernels; it is asked for by name, too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
BACKENDS = ("auto", "triton", "reference")
PRECISIONS = ("full", "fp8")
VARIABLE = "SANA_VIDEO_KERNELS"
CAPABILITY = (8, 0)  # bf16 products in hardware; older GPUs are untried
FP8_CAPABILITY = (8, 9)
INTERPRETED = False  # tests set it: then Triton's interpreter runs the kernels on the CPU, slowly
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Choice(NamedTuple):
    triton: bool
    reason: str  # why not Triton; empty where it runs
    fp8: bool = False


def choose(
    wanted: str, device: torch.device, dtype: torch.dtype, head_dim: int, precision: str = "full",
    widths: Sequence[int] = (),
) -> Choice:  # fmt: skip
    """Raises ValueError for an unknown name, and when Triton or fp8 is asked for by name but cannot run.

    `widths` are those of the products.
    """
    named = wanted if wanted != "auto" else os.environ.get(VARIABLE) or "auto"
    for what, given, names in (("kernels", named, BACKENDS), ("precision", precision, PRECISIONS)):
        if given not in names:
            raise ValueError(f"“{given}” is no choice of {what}; choose one of: {', '.join(names)}.")
    asked = named == "reference"
    reason = "the plain version was asked for" if asked else _refusal(device, dtype, head_dim)
    if reason and named == "triton":
        raise ValueError(f"The Triton kernels cannot run here: {reason}. Choose auto or reference.")
    if precision == "fp8":
        missing = reason and f"they are part of the Triton kernels, which do not run: {reason}"
        missing = missing or _fp8_refusal(device, dtype, widths)
        if missing:
            raise ValueError(f"Products in fp8 cannot run here: {missing}. Choose full precision.")
    return Choice(not reason, reason, precision == "fp8")


def _refusal(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    if not find_spec("triton"):
        return "Triton is not installed"
    if device.type != "cuda" and not INTERPRETED:
        return f"the model computes on {device.type}, and they need a CUDA or ROCm GPU"
    if device.type == "cuda" and torch.version.cuda and _capability(device) < CAPABILITY:
        return (
            f"this GPU is of compute capability {'.'.join(map(str, _capability(device)))}, and they need 8.0"
        )
    if dtype not in DTYPES:
        return f"the model computes in {dtype}"
    if head_dim % 2 or not 2 <= head_dim <= 128:
        return f"heads have {head_dim} dimensions, and they take even sizes up to 128"
    return ""


def _fp8_refusal(device: torch.device, dtype: torch.dtype, widths: Sequence[int]) -> str:
    if dtype != torch.bfloat16:
        return f"the model computes in {dtype}, and they take torch.bfloat16"
    if odd := [width for width in widths if width % 16]:
        return f"the model is {odd[0]} wide, and they take multiples of 16"
    if device.type == "cuda" and torch.version.hip:
        return "they need a GPU of NVIDIA"
    if device.type == "cuda" and _capability(device) < FP8_CAPABILITY:
        return (
            f"this GPU is of compute capability {'.'.join(map(str, _capability(device)))}, and they need 8.9 "
            "(GeForce RTX 40 and 50, H100 and newer)"
        )
    return _fp8_trial(device)


@functools.cache
def _fp8_trial(device: torch.device) -> str:
    """Which PyTorch has such products for which GPU is told nowhere: try one."""
    try:
        values, scales = (
            torch.zeros(16, 16, device=device).to(torch.float8_e4m3fn),
            torch.ones(16, 1, device=device),
        )
        torch._scaled_mm(values, values.T, scale_a=scales, scale_b=scales.T, out_dtype=torch.bfloat16, use_fast_accum=True)  # fmt: skip
    except (RuntimeError, AttributeError, ValueError, TypeError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"PyTorch {torch.__version__} has none with a scale for each row on this device ({told})"
    return ""


def by_device(plain: Callable[P, R]) -> Callable[P, R]:
    """The operation `plain` of a reference.py: its Triton version where the first tensor lies on a GPU (or interpreted)."""

    @functools.wraps(plain)
    def run(*given: P.args, **named: P.kwargs) -> R:
        x = given[0][0] if isinstance(given[0], tuple) else given[0]
        if not (isinstance(x, torch.Tensor) and x.is_cuda) and not INTERPRETED:
            return plain(*given, **named)
        triton = import_module(f"{plain.__module__.removesuffix('.reference')}.triton_kernel")
        return getattr(triton, plain.__name__)(*given, **named)

    return run


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
