"""Which version of an operation runs, and why not the other one.

auto takes Triton where it can run; reference is the plain version, everywhere; triton is asked for by name and says what is
missing. The environment variable SANA_VIDEO_KERNELS stands in for auto.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
BACKENDS = ("auto", "triton", "reference")
VARIABLE = "SANA_VIDEO_KERNELS"
CAPABILITY = (8, 0)  # bf16 products in hardware; older GPUs are untried
INTERPRETED = False  # tests set it: then Triton's interpreter runs the kernels on the CPU, slowly
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Choice(NamedTuple):
    triton: bool
    reason: str  # why not Triton; empty where it runs


def choose(wanted: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> Choice:
    """Raises ValueError for an unknown name, and when Triton is asked for by name but cannot run."""
    named = wanted if wanted != "auto" else os.environ.get(VARIABLE) or "auto"
    if named not in BACKENDS:
        raise ValueError(f"“{named}” is no choice of kernels; choose one of: {', '.join(BACKENDS)}.")
    if named == "reference":
        return Choice(False, "the plain version was asked for")
    reason = _refusal(device, dtype, head_dim)
    if reason and named == "triton":
        raise ValueError(f"The Triton kernels cannot run here: {reason}. Choose auto or reference.")
    return Choice(not reason, reason)


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


def by_device(plain: Callable[P, R]) -> Callable[P, R]:
    """The operation `plain` of a reference.py: its Triton version where the first tensor lies on a GPU (or interpreted)."""

    @functools.wraps(plain)
    def run(*given: P.args, **named: P.kwargs) -> R:
        x = given[0]
        if not (isinstance(x, torch.Tensor) and x.is_cuda) and not INTERPRETED:
            return plain(*given, **named)
        triton = import_module(f"{plain.__module__.removesuffix('.reference')}.triton_kernel")
        return getattr(triton, plain.__name__)(*given, **named)

    return run


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
