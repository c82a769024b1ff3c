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


def choose(wanted="auto", device=GPU, dtype=torch.bfloat16, head=112, **more):
    return dispatch.choose(wanted, device, dtype, head, **more)


def test_auto_takes_triton_where_it_runs(gpu):
    assert choose() == (True, "", False)
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


# ---------------------------------------------------------------- products in 8 bits


@pytest.fixture
def newer_gpu(gpu, monkeypatch):
    """An Ada GPU with a PyTorch that can."""
    monkeypatch.setattr(dispatch, "_capability", lambda device: (8, 9))
    monkeypatch.setattr(dispatch, "_fp8_trial", lambda device: "")


def test_fp8_only_when_it_is_asked_for(newer_gpu):
    assert not choose().fp8
    assert choose(precision="fp8", widths=(2240, 6720)) == (True, "", True)


@pytest.mark.parametrize(
    "given, reason",
    [
        ({"device": torch.device("cpu")}, "do not run: the model computes on cpu"),
        ({"wanted": "reference"}, "do not run: the plain version was asked for"),
        ({"dtype": torch.float16}, "computes in torch.float16"),
        ({"widths": (2240, 168)}, "is 168 wide, and they take multiples of 16"),
    ],
)
def test_refusals_of_fp8_have_a_reason(newer_gpu, given, reason):
    with pytest.raises(ValueError, match=reason):
        choose(precision="fp8", **given)


def test_fp8_on_other_gpus_and_by_other_names(newer_gpu, monkeypatch):
    with pytest.raises(ValueError, match="“int8” is no choice of precision; choose one of: full, fp8"):
        choose(precision="int8")
    monkeypatch.setattr(dispatch, "_fp8_trial", lambda device: "PyTorch 2.4 has none")
    with pytest.raises(ValueError, match=r"PyTorch 2\.4 has none\. Choose full precision"):
        choose(precision="fp8")
    monkeypatch.setattr(dispatch, "_capability", lambda device: (8, 6))
    with pytest.raises(ValueError, match=r"capability 8\.6, and they need 8\.9"):
        choose(precision="fp8")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(ValueError, match="a GPU of NVIDIA"):
        choose(precision="fp8")


def test_a_pytorch_without_such_products_is_found_out(monkeypatch):
    """The trial itself: here they run on the CPU; where they do not, the reason is PyTorch's own."""
    dispatch._fp8_trial.cache_clear()
    assert dispatch._fp8_trial(torch.device("cpu")) == ""

    def missing(*args, **kwargs):
        raise RuntimeError("rowwise is not supported\nsomewhere")

    monkeypatch.setattr(torch, "_scaled_mm", missing)
    dispatch._fp8_trial.cache_clear()
    assert dispatch._fp8_trial(torch.device("cpu")).endswith("on this device (rowwise is not supported)")
    dispatch._fp8_trial.cache_clear()
