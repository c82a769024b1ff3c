"""The trial that comes before the first use on a device: through Triton's interpreter, and with kernels that
are broken.
"""

import pytest
import torch
from comfyui_sana_video.kernels import trial
from comfyui_sana_video.sana_video_core.config import FAMILIES
from support.interpreted import interpreter, pair  # noqa: F401  the fixture is for all tests here

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(trial, "HEADS", 5)  # more than one tile of heads; the interpreter is slow
    trials = trial.kernel_trial, trial.gated_trial, trial.fp8_trial, trial.frames_trial
    for made in trials:
        made.cache_clear()
    yield
    for made in trials:
        made.cache_clear()


@pytest.mark.parametrize("head", [20, 112])
def test_kernels_that_are_right_pass(head):
    assert trial.kernel_trial(CPU, torch.float32, head) == ""


def test_it_is_made_for_as_many_heads_as_the_largest_models_have(monkeypatch):
    monkeypatch.undo()
    configs = [family.config for family in FAMILIES.values()]
    assert max(config.width // config.head_dim for config in configs) == trial.HEADS


def test_nobodys_random_numbers_are_used():
    before = torch.get_rng_state()
    trial.kernel_trial(CPU, torch.float32, 20)
    assert torch.equal(torch.get_rng_state(), before)


KERNELS = (
    ("residual_norm", "residual_norm"),
    ("residual_norm", "gated_residual"),
    ("gated_depthwise", "gated_depthwise"),
    ("linear_attention", "key_value_sum"),
    ("linear_attention", "query_rows"),
    ("linear_attention", "folded_weight"),
    ("temporal_taps", "temporal_taps"),
)


@pytest.mark.parametrize("operation, name", KERNELS)
def test_a_kernel_that_is_wrong_is_found(operation, name, monkeypatch):
    for other, its_name in KERNELS:
        if its_name != name:  # they are right, and the interpreter is slow
            plain, fast = pair(other)
            monkeypatch.setattr(fast, its_name, getattr(plain, its_name))
    module = pair(operation)[1]
    right = getattr(module, name)

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        return (out[0] * 1.1, *out[1:]) if isinstance(out, tuple) else out * 1.1

    monkeypatch.setattr(module, name, wrong)
    assert (
        trial.kernel_trial(CPU, torch.float32, 20)
        == f"{name} computes something else on this device (by 10%)"
    )
    monkeypatch.setattr(
        module, name, lambda *args: [part * float("nan") for part in trial._tensors(right(*args))]
    )
    trial.kernel_trial.cache_clear()
    assert trial.kernel_trial(CPU, torch.float32, 20)


def test_a_bias_that_is_wrong_is_found(monkeypatch):
    """The norm alone, and the residual: kernels of their own."""
    module = pair("residual_norm")[1]
    for name in ("residual_norm", "gated_residual"):
        right = getattr(module, name)
        with monkeypatch.context() as patched:
            patched.setattr(
                module,
                name,
                lambda *args, right=right: right(
                    *(args[:-1] if args[-1] is not None and getattr(args[-1], "ndim", 0) == 1 else args)
                ),
            )
            trial.kernel_trial.cache_clear()
            assert trial.kernel_trial(CPU, torch.float32, 20).startswith(f"{name} computes something else")


def test_a_kernel_that_does_not_compile_is_told(monkeypatch):
    def fails(*args):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    monkeypatch.setattr(pair("gated_depthwise")[1], "gated_depthwise", fails)
    assert (
        trial.kernel_trial(CPU, torch.float32, 20)
        == "a trial failed with RuntimeError: Failed to find C compiler."
    )


def test_full_memory_says_nothing_about_a_device(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(pair("residual_norm")[1], "residual_norm", full)
        with pytest.raises(torch.OutOfMemoryError):
            trial.kernel_trial(CPU, torch.float32, 20)
    assert trial.kernel_trial(CPU, torch.float32, 20) == ""


def test_products_in_8_bits(monkeypatch):
    """The interpreter rounds a few values to FP8 wrongly: the plain version stands in for that kernel."""
    plain, fast = pair("fp8_gemm")
    monkeypatch.setattr(fast, "fp8_rows", plain.fp8_rows)
    assert trial.fp8_trial(CPU) == ""
    trial.fp8_trial.cache_clear()

    def missing(*args, **kwargs):
        raise RuntimeError("rowwise scaling is not supported")

    monkeypatch.setattr(torch, "_scaled_mm", missing)
    assert trial.fp8_trial(CPU) == "a trial failed with RuntimeError: rowwise scaling is not supported"


def test_kernels_of_a_vae_that_are_right_pass():
    before = torch.get_rng_state()
    for dtype in (torch.float32, torch.float16):
        assert trial.frames_trial(CPU, dtype) == ""
    assert torch.equal(torch.get_rng_state(), before)


WRONG_FRAMES = {
    "sub-pixels": ("causal_frames", "summed", lambda parts: parts.subpixels),
    "products of pairs": ("causal_frames", "summed", lambda parts: isinstance(parts.x, tuple)),
    "the frames": ("causal_frames", "causal_frames", lambda *_, stacked, **__: not stacked),
    "stacked frames": ("causal_frames", "causal_frames", lambda *_, stacked, **__: stacked),
    "pairs": ("causal_frames", "paired_frames", lambda *_, **__: True),
    "taps": ("tap_sum", "sum_of_taps", lambda *_: True),
    "enlarged sums": ("clip_frames", "clip_sum", lambda pending: pending.factor == (1, 2, 2)),
    "a border": ("clip_frames", "clip_frames", lambda *_, reflect=False, **__: reflect),
    "stacked frames of a clip": ("clip_frames", "clip_frames", lambda *_, stacked=False, **__: stacked),
    "pairs of a clip": ("clip_frames", "clip_frames", lambda *_, paired=False, **__: paired),
}


@pytest.mark.parametrize("case", WRONG_FRAMES)
def test_a_kernel_of_a_vae_that_is_wrong_is_found(case, monkeypatch):
    operation, name, here = WRONG_FRAMES[case]
    for other, its_name in {(other, its_name) for other, its_name, _ in WRONG_FRAMES.values()}:
        if other != operation:  # they are right, and the interpreter is slow
            plain, fast = pair(other)
            monkeypatch.setattr(fast, its_name, getattr(plain, its_name))
    module = pair(operation)[1]
    right = getattr(module, name)

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        if not here(*args, **kwargs):
            return out
        return 1.1 * out if isinstance(out, torch.Tensor) else out._replace(seen=1.1 * out.seen)

    monkeypatch.setattr(module, name, wrong)
    said = trial.frames_trial(CPU, torch.float32)
    assert said == f"{name} computes something else on this device (by 10%)"


GATED = (
    ("residual_mix", "residual_mix"),
    ("gated_product", "silu_product"),
    ("gated_product", "sigmoid_product"),
    ("gated_attention", "rotated_rows"),
    ("gated_attention", "key_value_product"),
    ("gated_attention", "gated_heads"),
)


def test_kernels_of_gated_attention(monkeypatch):
    """Those that are right pass; of each, one that is wrong is found."""
    monkeypatch.setattr(trial, "TOKENS", 4)
    monkeypatch.setattr(trial, "HEADS", 2)
    assert trial.gated_trial(CPU, torch.float32, (14, 28)) == ""
    for operation, name in (*GATED, ("residual_norm", "gated_residual")):  # the interpreter is slow
        plain, fast = pair(operation)
        monkeypatch.setattr(fast, name, getattr(plain, name))
    for operation, name in GATED:
        right = getattr(pair(operation)[0], name)

        def wrong(*args, right=right):
            made = right(*args)
            return 1.1 * made if isinstance(made, torch.Tensor) else made._replace(h=1.1 * made.h)

        with monkeypatch.context() as patched:
            patched.setattr(pair(operation)[1], name, wrong)
            trial.gated_trial.cache_clear()
            assert (
                trial.gated_trial(CPU, torch.float32, (14, 28))
                == f"{name} computes something else on this device (by 10%)"
            )
