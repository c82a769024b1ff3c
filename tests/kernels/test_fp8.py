"""FP8 rows and their GEMMs: the plain version against its formula, the kernels against the plain version.

Triton's interpreter rounds a few values to FP8 wrongly (126 becomes 64), so its kernels are compared before
they round.
"""

import pytest
import torch
from support.interpreted import interpreter, pair, relative  # noqa: F401  the fixture is for all tests here

NEAR = 1e-6
SHAPES = [(1, 16), (3, 33), (2, 5, 112), (4, 2240)]


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.fixture
def unrounded(monkeypatch):
    """The kernels write what they would round."""
    for name in ("fp8_gemm", "residual_norm"):
        monkeypatch.setattr(pair(name)[1], "FP8", torch.float32)


def test_a_row_loses_what_three_bits_of_mantissa_lose():
    plain, _ = pair("fp8_gemm")
    x = rand(7, 64) * torch.logspace(-20, 20, 7)[:, None]
    values, scales = plain.fp8_rows(x)
    assert values.dtype == torch.float8_e4m3fn
    assert torch.equal(values.float().abs().amax(-1), torch.full((7,), 448.0))
    error = (values.float() * scales - x).abs()
    assert (error <= torch.maximum(x.abs() / 16, scales / 2**9) * (1 + 1e-6)).all()


def test_rows_that_are_zero_or_nothing_at_all():
    plain, _ = pair("fp8_gemm")
    x = torch.tensor([[0.0, 0.0], [1e-45, 0.0], [float("nan"), 1.0]])
    values, scales = plain.fp8_rows(x)
    assert not (values[:2].float() * scales[:2]).abs().gt(1e-38).any()
    assert (values[2].float() * scales[2]).isnan().any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fp8_rows(shape, unrounded):
    plain, fast = pair("fp8_gemm")
    x = rand(*shape)
    x.view(-1, shape[-1])[0] = 0
    rows, truth = fast.fp8_rows(x), plain.fp8_rows(x)
    assert rows.values.shape == x.shape
    assert relative(rows.scales, truth.scales) < NEAR
    assert relative(rows.values * rows.scales, x) < NEAR
    assert rows.values.abs().max() < 448.01


def test_fp8_rows_of_a_view(unrounded):
    _, fast = pair("fp8_gemm")
    x = rand(6, 48, 2)[:, ::2, 1].mT
    rows = fast.fp8_rows(x)
    assert relative(rows.values * rows.scales, x) < NEAR


@pytest.mark.parametrize("frames, area, width", [(3, 1, 16), (5, 6, 33), (4, 2, 1120)])
def test_fp8_taps(frames, area, width, unrounded):
    """A token between its neighbours in time: the same place, one latent frame before and behind."""
    plain, fast = pair("fp8_gemm")
    x = rand(frames, area, width)
    rows, truth = fast.fp8_taps(x), plain.fp8_taps(x)
    beside = torch.stack([x[:-2], x[1:-1], x[2:]], dim=2).view((frames - 2) * area, 3 * width)
    assert relative(rows.scales, truth.scales) < NEAR
    assert relative(rows.values * rows.scales, beside) < NEAR
    assert relative(truth.values.float() * truth.scales, beside) < 0.05


def test_what_is_written_is_rounded():
    """All but a few values that the interpreter gets wrong."""
    plain, fast = pair("fp8_gemm")
    rows, truth = fast.fp8_rows(rand(8, 256)), plain.fp8_rows(rand(8, 256))
    assert rows.values.dtype == torch.float8_e4m3fn
    assert (rows.values.float() != truth.values.float()).float().mean() < 0.06


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("with_out", [True, False], ids=["out", "new"])
def test_fp8_gemm(bias, with_out):
    """Both versions multiply what the rows hold, not what they were made of."""
    plain, fast = pair("fp8_gemm")
    rows, weight = plain.fp8_rows(rand(5, 32)), plain.fp8_rows(rand(48, 32))
    added = rand(48) if bias else None
    held = [values.double() * scales for values, scales in (rows, weight)]
    truth = held[0] @ held[1].T + (added.double() if bias else 0)
    for version in (plain, fast):
        out = torch.full((5, 48), float("nan")) if with_out else None
        output = version.fp8_gemm(rows, weight, added, torch.float32, out)
        assert relative(output, truth) < 1e-5
        assert out is None or output.data_ptr() == out.data_ptr()


@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (2, 6, 3, 112), (3, 5, 1, 33)], ids=str)
@pytest.mark.parametrize("parts", ["norm", "gate"])
def test_residual_norm_fp8(shape, parts, unrounded):
    plain, fast = pair("residual_norm")
    batch, tokens, groups, width = shape
    x, branch = (rand(batch, tokens, width, seed=s) for s in range(2))
    gate, shift, scale = (rand(batch, groups, width, seed=s) for s in range(3, 6))
    arguments = (x, None, None) if parts == "norm" else (x, branch, gate)
    arguments = (*arguments, shift, scale, 1e-6)
    (carried, h), (truth, full) = fast.residual_norm_fp8(*arguments), plain.residual_norm(*arguments)
    assert relative(carried, truth) < NEAR
    assert relative(h.values * h.scales, full) < NEAR
    assert relative(h.scales, plain.residual_norm_fp8(*arguments)[1].scales) < NEAR
    assert relative(h.values.abs().amax(-1), torch.full(h.values.shape[:2], 448.0)) < NEAR


def test_gated_residual_fp8(unrounded):
    plain, fast = pair("residual_norm")
    x, branch, gate = rand(2, 6, 33), rand(2, 6, 33, seed=1), rand(2, 3, 33)
    for arguments in ((x, branch, gate), (x, branch, None)):
        (carried, rows), truth = fast.gated_residual_fp8(*arguments), plain.gated_residual(*arguments)
        assert relative(carried, truth) < NEAR
        assert relative(rows.values * rows.scales, truth) < NEAR
        kept, rounded = plain.gated_residual_fp8(*arguments)
        assert torch.equal(kept, truth)
        assert relative(rounded.scales, rows.scales) < NEAR
