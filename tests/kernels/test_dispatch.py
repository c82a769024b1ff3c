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
    monkeypatch.setattr(torch.version, "hip", None)
    trial = SimpleNamespace(
        kernel_trial=lambda *_: "", fp8_trial=lambda device: "", frames_trial=lambda *_: ""
    )
    monkeypatch.setattr(dispatch, "_trial", lambda: trial)
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)


def choose(wanted="auto", device=GPU, dtype=torch.bfloat16, head=112, **more):
    return dispatch.choose(wanted, device, dtype, head, **more)


def test_auto_takes_triton_where_it_runs(gpu):
    assert choose() == (True, "", False)
    assert choose("triton").triton
    assert not choose("reference").triton


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"device": torch.device("cpu")}, "computes on cpu"),
        ({"device": torch.device("mps")}, "computes on mps"),
        ({"dtype": torch.float64}, "computes in torch.float64"),
        ({"dtype": torch.float16}, "computes in torch.float16"),
        ({"head": 21}, "heads have 21"),
        ({"head": 144}, "heads have 144"),
    ],
)
def test_refusals_have_a_reason(gpu, arguments, reason):
    assert reason in choose(**arguments).reason
    assert not choose(**arguments).triton
    with pytest.raises(ValueError, match=reason):
        choose("triton", **arguments)


def test_a_vae_has_reasons_of_its_own(gpu, monkeypatch):
    def choose(wanted="auto", device=GPU, dtype=torch.bfloat16):
        return dispatch.choose_for_frames(wanted, device, dtype)

    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert choose(dtype=dtype) == (True, "", False)
    assert not choose("reference").triton
    for arguments, reason in (
        ({"device": torch.device("cpu")}, "the VAE computes on cpu"),
        ({"dtype": torch.float64}, "the VAE computes in torch.float64"),
    ):
        assert reason in choose(**arguments).reason
        with pytest.raises(ValueError, match=reason):
            choose("triton", **arguments)
    monkeypatch.setattr(dispatch._trial(), "frames_trial", lambda *_: "no compiler")
    assert choose() == (False, "no compiler", False)
    with pytest.raises(ValueError, match="cannot run here: no compiler"):
        choose("triton")


def test_an_old_gpu_or_no_triton(gpu, monkeypatch):
    monkeypatch.setattr(dispatch, "_capability", lambda device: (7, 9))
    assert "capability 7.9, and they need 8.0" in choose().reason
    monkeypatch.setattr(torch.version, "cuda", None)
    assert choose().triton, "AMD counts otherwise"
    monkeypatch.setattr(dispatch, "_capability", lambda device: (8, 0))
    assert choose().triton
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert "not installed" in choose().reason


def test_the_environment_stands_in_for_auto_only(gpu, monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, " Reference")
    assert not choose().triton
    assert choose("triton").triton
    with pytest.raises(
        ValueError, match=r"asked for by kernels \(the environment variable SANA_VIDEO_KERNELS\)"
    ):
        choose(precision="fp8")
    monkeypatch.setenv(dispatch.VARIABLE, "fast")
    with pytest.raises(
        ValueError,
        match=r"“fast” is no choice of kernels \(the environment variable SANA_VIDEO_KERNELS\); "
        "choose one of: auto, triton, reference",
    ):
        choose()
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    with pytest.raises(
        ValueError, match=r"\. Change or remove the environment variable SANA_VIDEO_KERNELS\."
    ):
        choose(device=torch.device("cpu"))
    monkeypatch.setenv(dispatch.VARIABLE, "")
    assert choose().triton


def test_sizes_that_take_triton(gpu):
    for head in (20, 32, 48, 64, 80, 96, 112, 128):
        assert choose(head=head).triton


# ---------------------------------------------------------------- GEMMs in FP8


@pytest.fixture
def newer_gpu(gpu, monkeypatch):
    """An Ada GPU."""
    monkeypatch.setattr(dispatch, "_capability", lambda device: (8, 9))


def test_fp8_only_when_it_is_asked_for(newer_gpu):
    assert not choose().fp8
    assert choose(precision="fp8", widths=(2240, 6720)) == (True, "", True)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"device": torch.device("cpu")}, "do not run: the model computes on cpu"),
        ({"wanted": "reference"}, "do not run: the plain version was asked for"),
        ({"dtype": torch.float16}, "computes in torch.float16"),
        ({"widths": (2240, 168)}, "is 168 wide, and they take multiples of 16"),
    ],
)
def test_refusals_of_fp8_have_a_reason(newer_gpu, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        choose(precision="fp8", **arguments)


def test_fp8_on_other_gpus_and_by_other_names(newer_gpu, monkeypatch):
    with pytest.raises(ValueError, match="“int8” is no choice of precision; choose one of: full, fp8"):
        choose(precision="int8")
    monkeypatch.setattr(dispatch._trial(), "fp8_trial", lambda device: "a trial failed")
    with pytest.raises(ValueError, match=r"a trial failed\. Choose full precision"):
        choose(precision="fp8")
    monkeypatch.setattr(dispatch, "_capability", lambda device: (8, 8))
    with pytest.raises(ValueError, match=r"capability 8\.8, and they need 8\.9"):
        choose(precision="fp8")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(ValueError, match="a GPU of NVIDIA"):
        choose(precision="fp8")


def test_the_trial_is_found():
    """Under whatever name the pack was loaded: on a GPU nothing runs without it."""
    assert callable(dispatch._trial().kernel_trial)
    assert callable(dispatch._trial().fp8_trial)
    assert callable(dispatch._trial().frames_trial)


def test_a_trial_that_fails_is_a_reason(gpu, monkeypatch):
    monkeypatch.setattr(dispatch._trial(), "kernel_trial", lambda *_: "no compiler")
    assert choose() == (False, "no compiler", False)
    with pytest.raises(ValueError, match="cannot run here: no compiler"):
        choose("triton")


def test_an_operation_goes_to_its_device(monkeypatch):
    """Its Triton version where that is chosen, also when the first of its arguments is a pair."""
    from comfyui_sana_video.kernels import fp8_gemm

    called = []
    for name in ("fp8_rows", "fp8_gemm"):
        monkeypatch.setattr(fp8_gemm.reference, name, None)  # the dispatcher holds the plain version itself
        version = lambda *_, name=name: called.append(name)  # noqa: E731
        monkeypatch.setattr(f"{fp8_gemm.__name__}.triton_kernel.{name}", version)
    rows = fp8_gemm.fp8_rows(torch.ones(2, 16))
    assert not called
    monkeypatch.setattr(dispatch, "INTERPRETED", True)
    fp8_gemm.fp8_rows(torch.ones(2, 16))
    fp8_gemm.fp8_gemm(rows, rows, None, torch.float32)
    assert called == ["fp8_rows", "fp8_gemm"]


def test_gated_attention_has_two_head_sizes(gpu, monkeypatch):
    def choose(wanted="auto", heads=(128, 256), sources=6, dtype=torch.bfloat16, **more):
        return dispatch.choose_gated(wanted, GPU, dtype, heads, sources, **more)

    tried = []
    trial = SimpleNamespace(gated_trial=lambda *args: tried.append(args) or "", fp8_trial=lambda device: "")
    monkeypatch.setattr(dispatch, "_trial", lambda: trial)
    assert choose() == (True, "", False)
    assert tried == [(GPU, torch.bfloat16, (128, 256))]
    assert not choose("reference").triton
    for heads, wrong in (((144, 256), "144"), ((128, 258), "258"), ((15, 30), "15"), ((14, 27), "27")):
        assert f"heads have {wrong} dimensions" in choose(heads=heads).reason
    assert "float16" in choose(dtype=torch.float16).reason
    assert choose(sources=7).reason == "blocks read 7 sums, and they take up to 6"
    with pytest.raises(ValueError, match="Choose full precision"):
        choose(precision="fp8")
    monkeypatch.setattr(dispatch, "_capability", lambda device: (9, 0))
    assert choose(precision="fp8", widths=(2560, 10240)).fp8
