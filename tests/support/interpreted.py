"""Triton's interpreter: the kernels as they are written, on a CPU, in float32 (its bfloat16 truncates, and
its dot misreads it).
"""

from importlib import import_module

import pytest
import torch
from comfyui_sana_video.kernels import dispatch
from conftest import PACKAGE


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Triton looks at the environment when it is imported (conftest.py sets it where there is no GPU)."""
    if not pytest.importorskip("triton").knobs.runtime.interpret:
        pytest.skip("this machine has a GPU: the kernels are tested on it, in test_gpu.py")
    monkeypatch.setattr(dispatch, "INTERPRETED", True)


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fresh memory of floats holds NaN: what a kernel leaves out is seen."""

    def filled(make):
        def made(*args, **kwargs):
            tensor = make(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return made

    for place, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(place, name, filled(getattr(place, name)))


def pair(name):
    """(plain, Triton) modules of an operation."""
    return tuple(import_module(f"{PACKAGE}.kernels.{name}.{part}") for part in ("reference", "triton_kernel"))


def attention(version, qkv, q_weight, k_weight, rotary, past, heads, norm_eps, eps):
    """The linear attention of one version: rows [B, N, D], and the sum of these tokens."""
    sums = version.key_value_sum(qkv, k_weight, rotary, heads, norm_eps)
    total = sums if past is None else past + sums
    queries = version.query_rows(qkv, q_weight, rotary, total.ksum, heads, norm_eps, eps)
    width = torch.eye(queries.shape[-1], dtype=qkv.dtype)
    return torch.bmm(queries, version.folded_weight(width, total).mT), sums


def relative(output, truth):
    assert output.isfinite().all(), "something was left unwritten, or divided by nothing"
    return float((output.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-30))
