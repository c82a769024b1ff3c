"""Which version runs, and what is said of the other."""

from types import SimpleNamespace

import pytest
import torch
from comfyui_sana_video.kernels import dispatch

GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A machine with Triton and an Ampere GPU, as far as `choose` asks."""
    monkeypatch.setattr(dispatch, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(dispatch, "_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)


def choose(wanted="auto", device=GPU, dtype=torch.bfloat16, head=112):
    return dispatch.choose(wanted, device, dtype, head)


def test_auto_takes_triton_where_it_runs(gpu):
    assert choose() == (True, "")
    assert choose("triton").triton
    assert not choose("reference").triton


@pytest.mark.parametrize(
    "given, reason",
    [
        ({"device": torch.device("cpu")}, "computes on cpu"),
        ({"device": torch.device("mps")}, "computes on mps"),
        ({"dtype": torch.float64}, "computes in torch.float64"),
        ({"head": 21}, "heads have 21"),
        ({"head": 144}, "heads have 144"),
    ],
)
def test_refusals_have_a_reason(gpu, given, reason):
    assert reason in choose(**given).reason
    assert not choose(**given).triton
    with pytest.raises(ValueError, match=reason):
        choose("triton", **given)


def test_an_old_gpu_or_no_triton(gpu, monkeypatch):
    monkeypatch.setattr(dispatch, "_capability", lambda device: (7, 5))
    assert "capability 7.5" in choose().reason
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert "not installed" in choose().reason


def test_the_environment_stands_in_for_auto_only(gpu, monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    assert not choose().triton
    assert choose("triton").triton
    monkeypatch.setenv(dispatch.VARIABLE, "fast")
    with pytest.raises(
        ValueError, match="“fast” is no choice of kernels; choose one of: auto, triton, reference"
    ):
        choose()


def test_sizes_that_take_triton(gpu):
    for head in (20, 32, 48, 64, 80, 96, 112, 128):
        assert choose(head=head).triton
