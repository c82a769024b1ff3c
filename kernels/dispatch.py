"""Which version of an operation runs, and why not the other one.

auto takes Triton where it can run. reference is the plain version, everywhere. triton, asked for by name,
says what is missing. The environment variable SANA_VIDEO_KERNELS stands in for auto. fp8, asked for by name,
too, is a precision of the GEMMs between Triton kernels.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from .choices import BACKENDS, PRECISIONS

P = ParamSpec("P")
R = TypeVar("R")
VARIABLE = "SANA_VIDEO_KERNELS"
CAPABILITY = (8, 0)  # bf16 GEMMs in hardware; older GPUs are untried
FP8_CAPABILITY = (8, 9)
INTERPRETED = False  # tests set it: then Triton's interpreter runs the kernels on the CPU, slowly
DTYPES = (torch.bfloat16, torch.float32)  # sums over a long clip do not fit into float16
MOST_SOURCES = 6  # of a mix: the kernel has a pointer for each
FRAME_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Choice(NamedTuple):
    triton: bool
    reason: str  # why not Triton; empty where it runs
    fp8: bool = False


def choose(
    wanted: str, device: torch.device, dtype: torch.dtype, head_dim: int, precision: str = "full",
    widths: Sequence[int] = (),
) -> Choice:  # fmt: skip
    """Raises ValueError for an unknown name, and when Triton or fp8 is asked for by name but cannot run.

    `widths` are those of the GEMMs.
    """
    return _choice(wanted, lambda: _refusal(device, dtype, head_dim), device, dtype, precision, widths)


def choose_gated(
    wanted: str, device: torch.device, dtype: torch.dtype, head_dims: tuple[int, int], sources: int,
    precision: str = "full", widths: Sequence[int] = (),
) -> Choice:  # fmt: skip
    """The same for gated attention: head sizes of linear and softmax layers, sources of its largest mix."""

    def refusal() -> str:
        return _gated_refusal(device, dtype, head_dims, sources)

    return _choice(wanted, refusal, device, dtype, precision, widths)


def _choice(
    wanted: str, refusal: Callable[[], str], device: torch.device, dtype: torch.dtype, precision: str,
    widths: Sequence[int],
) -> Choice:  # fmt: skip
    name, source = _named(wanted)
    if precision not in PRECISIONS:
        raise _no_choice("precision", precision, PRECISIONS)
    reason = _reason(name, source, refusal)
    if precision == "fp8":
        missing = reason and f"they are part of the Triton kernels, which do not run: {reason}"
        missing = missing or _fp8_refusal(device, dtype, widths)
        if missing:
            way = f"Change or remove {source}, or choose" if name == "reference" and source else "Choose"
            raise ValueError(f"GEMMs in fp8 cannot run here: {missing}. {way} full precision.")
    return Choice(not reason, reason, precision == "fp8")


def choose_for_frames(wanted: str, device: torch.device, dtype: torch.dtype) -> Choice:
    """The same for the kernels of a causal VAE."""
    name, source = _named(wanted)
    reason = _reason(name, source, lambda: _frames_refusal(device, dtype))
    return Choice(not reason, reason)


def _named(wanted: str) -> tuple[str, str]:
    """The name that counts, and the environment variable if that is where it comes from."""
    set_to = os.environ.get(VARIABLE, "").strip().lower() if wanted == "auto" else ""
    source = f"the environment variable {VARIABLE}" if set_to else ""
    name = set_to or wanted
    if name not in BACKENDS:
        raise _no_choice(f"kernels{_in_brackets(source)}", name, BACKENDS)
    return name, source


def _no_choice(what: str, name: str, names: Sequence[str]) -> ValueError:
    return ValueError(f"“{name}” is no choice of {what}; choose one of: {', '.join(names)}.")


def _in_brackets(source: str) -> str:
    return f" ({source})" if source else ""


def _reason(name: str, source: str, refusal: Callable[[], str]) -> str:
    """Why not Triton; raises ValueError if it was asked for by name."""
    if name == "reference":
        return f"the plain version was asked for by kernels{_in_brackets(source)}"
    reason = refusal()
    if reason and name == "triton":
        way = f"Change or remove {source}" if source else "Choose auto or reference"
        raise ValueError(f"The Triton kernels cannot run here: {reason}. {way}.")
    return reason


def _refusal(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    if reason := _model_refusal(device, dtype, head_dim, 128):
        return reason
    return _trial().kernel_trial(device, dtype, head_dim) if device.type == "cuda" else ""


def _gated_refusal(device: torch.device, dtype: torch.dtype, head_dims: tuple[int, int], sources: int) -> str:
    linear, softmax = head_dims
    if reason := _model_refusal(device, dtype, linear, 128) or _model_refusal(device, dtype, softmax, 256):
        return reason
    if sources > MOST_SOURCES:
        return f"blocks read {sources} sums, and they take up to {MOST_SOURCES}"
    return _trial().gated_trial(device, dtype, head_dims) if device.type == "cuda" else ""


def _model_refusal(device: torch.device, dtype: torch.dtype, head_dim: int, most: int) -> str:
    if reason := _device_refusal("the model", device):
        return reason
    if dtype not in DTYPES:
        return f"the model computes in {dtype}"
    if head_dim % 2 or not 2 <= head_dim <= most:
        return f"heads have {head_dim} dimensions, and they take even sizes up to {most}"
    return ""


def _frames_refusal(device: torch.device, dtype: torch.dtype) -> str:
    if reason := _device_refusal("the VAE", device):
        return reason
    if dtype not in FRAME_DTYPES:
        return f"the VAE computes in {dtype}"
    return _trial().frames_trial(device, dtype) if device.type == "cuda" else ""


def _device_refusal(what: str, device: torch.device) -> str:
    if not find_spec("triton"):
        return "Triton is not installed"
    if device.type != "cuda" and not INTERPRETED:
        return f"{what} computes on {device.type}, and they need a CUDA or ROCm GPU"
    if device.type == "cuda" and torch.version.cuda and _capability(device) < CAPABILITY:
        return f"{_of_capability(device)}, and they need 8.0"
    return ""


def _fp8_refusal(device: torch.device, dtype: torch.dtype, widths: Sequence[int]) -> str:
    if dtype != torch.bfloat16:
        return f"the model computes in {dtype}, and they take torch.bfloat16"
    if odd := [width for width in widths if width % 16]:
        return f"the model is {odd[0]} wide, and they take multiples of 16"
    if device.type == "cuda" and torch.version.hip:
        return "they need a GPU of NVIDIA"
    if device.type == "cuda" and _capability(device) < FP8_CAPABILITY:
        return f"{_of_capability(device)}, and they need 8.9 (GeForce RTX 40 and 50, H100 and newer)"
    return _trial().fp8_trial(device) if device.type == "cuda" else ""


def _trial() -> ModuleType:
    """Late, because the operations that it tries import this module."""
    return import_module("..trial", __name__)


def _of_capability(device: torch.device) -> str:
    return f"this GPU is of compute capability {'.'.join(map(str, _capability(device)))}"


def by_device(plain: Callable[P, R]) -> Callable[P, R]:
    """The operation `plain` of a reference.py; on a GPU (or interpreted) its Triton version.

    The first tensor says where.
    """

    @functools.wraps(plain)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first: object = args[0]
        while isinstance(first, tuple):
            first = cast("tuple[object, ...]", first)[0]
        x = cast(Tensor, first)
        if not x.is_cuda and not INTERPRETED:
            return plain(*args, **kwargs)
        triton = import_module(f"{plain.__module__.removesuffix('.reference')}.triton_kernel")
        # Triton launches on the current device
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            return getattr(triton, plain.__name__)(*args, **kwargs)

    return run


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
