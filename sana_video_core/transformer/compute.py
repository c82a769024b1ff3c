"""The compute tag: what of a machine and its settings decides the bits of a chunk."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

NUMERICS = 1  # raise it when our code computes the same thing to other bits
CPU_INFO = Path("/proc/cpuinfo")


def compute_tag(device: torch.device, dtype: torch.dtype, backend: str, precision: str) -> str:
    """Chunks of equal tags and inputs have equal bits; the tag is also to be read by people.

    `backend` says whose kernels run (triton, reference), `precision` how GEMMs compute (full, fp8).
    """
    parts = {
        "device": _model(device),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": str(torch.__version__),
        "kernels": backend,
        "triton": _triton() if backend == "triton" else "",
        "precision": precision,
        "dtype": str(dtype).removeprefix("torch."),
        "numerics": str(NUMERICS),
        **(_gpu_settings() if device.type == "cuda" else _cpu_settings() if device.type == "cpu" else {}),
        "float32": _float32(device),
    }
    return "; ".join(f"{name} {value.replace(';', ',')}" for name, value in parts.items() if value)


def _model(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name() if device.type == "cpu" else f"{device.type} {platform.processor()}"


def _cpu_name() -> str:
    """The CPU's model; where only its family is known, that."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _triton() -> str:
    """Triton's version, also where its package has the name that it has on Windows."""
    for package in ("triton", "triton-windows", "pytorch-triton-rocm"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"


def _cpu_settings() -> dict[str, str]:
    return {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": str(torch.get_num_threads())}


def _gpu_settings() -> dict[str, str]:
    """Versions of the libraries, and the switches of PyTorch that let them round otherwise."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches = {
        "fp16 accumulation": getattr(matmul, "allow_fp16_accumulation", False),  # since PyTorch 2.7
        "fp16 reduction": matmul.allow_fp16_reduced_precision_reduction,
        "bf16 reduction": matmul.allow_bf16_reduced_precision_reduction,
        "cudnn benchmark": cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return {
        "cuda": torch.version.cuda or f"hip {torch.version.hip}",
        "cudnn": str(cudnn.version()),
        "switches": ", ".join(name for name, on in switches.items() if on) or "none",
    }


def _float32(device: torch.device) -> str:
    """In what matrix products and convolutions of float32 are computed: ieee, tf32, bf16."""
    gpu, backends = device.type == "cuda", torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # before PyTorch 2.9
        tf32 = (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32) if gpu else ()
        return ", ".join(map(str, (torch.get_float32_matmul_precision(), *tf32)))
    # the older getters raise where somebody used these
    places = (
        (backends.cuda.matmul, backends.cudnn.conv) if gpu else (backends.mkldnn.matmul, backends.mkldnn.conv)
    )
    general = backends.fp32_precision.replace("none", "ieee")
    return ", ".join(place.fp32_precision.replace("none", general) for place in places)
