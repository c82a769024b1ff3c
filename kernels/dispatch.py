"""Which version of an operation runs, and why not the other one.

auto takes Triton where it can run; reference is the plain version, everywhere; triton is asked for by name and says what is
missing. The environment variable SANA_VIDEO_KERNELS stands in for auto.
"""

from __future__ import annotations

import functools
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

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


def version(operation: str, x: torch.Tensor) -> Any:
    """The module of an operation that computes on x: its Triton version on a GPU (or interpreted), else the plain one."""
    triton = x.is_cuda or INTERPRETED
    return import_module(f"{operation}.{'triton_kernel' if triton else 'reference'}")


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
