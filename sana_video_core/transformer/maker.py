"""Who makes chunks: what decides their bits, apart from a model's file and the inputs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from .ops import Choice

NUMERICS = 1  # raised when a change of this pack gives other bits


class AppliedLora(NamedTuple):
    """A LoRA that is in a model's weights."""

    name: str
    content: str  # sha256 of its file
    strength: float

    @property
    def words(self) -> str:
        return f"{self.name} {self.strength:g}"


class Maker(NamedTuple):
    """A model as it stands, besides its file."""

    loras: tuple[str, ...] = ()  # in words
    weights: str = ""  # sha256 of the LoRAs' contents and strengths in their order; "" without any
    compute: str = ""  # one line, see compute_tag


class Network(Protocol):
    """`SanaVideo`, also where a host moves and casts its weights."""

    @property
    def compute_device(self) -> torch.device: ...
    @property
    def compute_dtype(self) -> torch.dtype: ...
    def kernel_choice(self, device: torch.device, dtype: torch.dtype) -> Choice: ...


def maker_of(network: Network, loras: Sequence[AppliedLora]) -> Maker:
    """A network's with these LoRAs in its weights."""
    device, dtype = network.compute_device, network.compute_dtype
    choice = network.kernel_choice(device, dtype)
    how = {"kernels": "triton" if choice.triton else "plain", "precision": "fp8" if choice.fp8 else "full"}
    names = tuple(lora.words for lora in loras)
    return Maker(names, weights_digest(loras), compute_tag(device, dtype, **how))


def weights_digest(loras: Sequence[AppliedLora]) -> str:
    if not loras:
        return ""
    contents = [[lora.content, float(lora.strength).hex()] for lora in loras]
    return hashlib.sha256(json.dumps(contents).encode("ascii")).hexdigest()


def compute_tag(device: torch.device, dtype: torch.dtype, *, kernels: str, precision: str) -> str:
    """One line: device, versions, and how a network computes there; a CPU's number of threads, too."""
    where = [torch.cuda.get_device_name(device)] if device.type == "cuda" else [device.type]
    if device.type == "cpu":
        threads = f"{torch.get_num_threads()} threads"
        where = [_processor(), torch.backends.cpu.get_cpu_capability(), threads]
    how = [str(dtype).removeprefix("torch."), kernels, precision]
    versions = [f"torch {torch.__version__}", f"CUDA {torch.version.cuda or 'none'}", f"triton {_triton()}"]
    return ", ".join([*where, *how, *versions, f"numerics {NUMERICS}"])


@cache
def _processor() -> str:
    """The processor's model name, which Python's platform module doesn't know under Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


@cache
def _triton() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"
