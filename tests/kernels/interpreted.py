"""Triton's interpreter: the kernels as they are written, on a CPU, in float32 (its bfloat16 truncates, and its dot misreads it)."""

from importlib import import_module

import pytest
from comfyui_sana_video.kernels import dispatch
from conftest import PACKAGE


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Triton looks at the environment when it is imported (conftest.py sets it where there is no GPU)."""
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("this machine has a GPU: the kernels are tested on it, in test_gpu.py")
    monkeypatch.setattr(dispatch, "INTERPRETED", True)


def pair(name):
    """(plain, Triton) modules of an operation."""
    return tuple(import_module(f"{PACKAGE}.kernels.{name}.{part}") for part in ("reference", "triton_kernel"))


def relative(found, truth):
    assert found.isfinite().all(), "something was left unwritten, or divided by nothing"
    return float((found.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-30))
