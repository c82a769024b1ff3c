"""The Triton kernels against the plain versions in float64, at odd shapes; every output is poisoned before."""

import pytest
import torch
from interpreted import interpreter, pair, relative  # noqa: F401  the fixture is for all tests here

NEAR = 1e-6


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


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


@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (2, 6, 3, 112), (3, 5, 1, 33), (1, 4, 2, 2240)], ids=str)
@pytest.mark.parametrize("parts", ["norm", "branch", "gate", "extra"])
def test_residual_norm(shape, parts):
    plain, fast = pair("residual_norm")
    batch, tokens, groups, width = shape
    x, branch, extra = (rand(batch, tokens, width, seed=s) for s in range(3))
    gate, shift, scale = (rand(batch, groups, width, seed=s) for s in range(3, 6))
    if parts == "extra":
        given = (x, branch, gate, extra)
        assert relative(fast.gated_residual(*given), plain.gated_residual(*given)) < NEAR
        return
    given = (x, None if parts == "norm" else branch, gate if parts == "gate" else None, shift, scale, 1e-6)
    for found, truth in zip(fast.residual_norm(*given), plain.residual_norm(*given), strict=True):
        assert relative(found, truth) < NEAR


def test_residual_norm_of_views():
    """Clips that lie apart, tables of one row for all clips, columns of a wider tensor."""
    plain, fast = pair("residual_norm")
    x, wide = rand(2, 6, 48), rand(2, 10, 48)
    branch, gate = wide[:, 2:8], rand(1, 2, 48).expand(2, -1, -1)
    shift, scale = rand(2, 2, 6, 48)[:, :, 1], rand(2, 2, 96)[:, :, ::2]
    given = (x.transpose(0, 1).contiguous().transpose(0, 1), branch, gate, shift, scale, 1e-6)
    for found, truth in zip(fast.residual_norm(*given), plain.residual_norm(*given), strict=True):
        assert relative(found, truth) < NEAR


@pytest.mark.parametrize(
    "shape", [(1, 5, 7, 8), (2, 1, 9, 66), (3, 4, 1, 16), (1, 1, 1, 1), (1, 6, 5, 130)], ids=str
)
def test_gated_depthwise(shape):
    plain, fast = pair("gated_depthwise")
    images, rows, columns, hidden = shape
    given = (
        rand(images, rows * columns, 2 * hidden),
        rand(2 * hidden),
        rand(2 * hidden, 1, 3, 3),
        rand(2 * hidden, seed=1),
    )
    truth = plain.gated_depthwise(*(x.double() for x in given), rows, columns)
    assert relative(fast.gated_depthwise(*given, rows, columns), truth) < NEAR


def test_gated_depthwise_outside_of_the_image_is_nothing():
    """A bias makes silu(0 + bias) large: padding must be zero behind the activation, not before it."""
    plain, fast = pair("gated_depthwise")
    given = (torch.zeros(1, 4, 8), torch.full((8,), 5.0), torch.ones(8, 1, 3, 3), torch.zeros(8))
    assert relative(fast.gated_depthwise(*given, 2, 2), plain.gated_depthwise(*given, 2, 2)) < NEAR


@pytest.mark.parametrize("shape", [(1, 1, 1, 48), (2, 33, 2, 112), (1, 40, 3, 20), (1, 65, 1, 128)], ids=str)
@pytest.mark.parametrize("carried", [False, True])
def test_linear_attention(shape, carried, monkeypatch):
    plain, fast = pair("linear_attention")
    monkeypatch.setattr(fast, "SPLIT_TOKENS", 32)
    batch, tokens, heads, size = shape
    width = heads * size
    angles = rand(tokens, size // 2)
    given = (rand(batch, tokens, 3 * width), rand(width), rand(width, seed=1), (angles.cos(), angles.sin()))
    past = (
        plain.KeyValueSum(rand(batch, heads, size, size), rand(batch, heads, size).abs()) if carried else None
    )
    kept = None if past is None else [x.clone() for x in past]
    out, own = fast.linear_self_attention(*given, past, heads, 1e-5, 1e-8)
    double = (*(x.double() for x in given[:3]), given[3])
    truth, sums = plain.linear_self_attention(*double, past, heads, 1e-5, 1e-8)
    assert relative(out, truth) < NEAR
    assert max(relative(a, b) for a, b in zip(own, sums, strict=True)) < NEAR
    if past is not None:
        assert all(torch.equal(a, b) for a, b in zip(past, kept, strict=True)), "the past was written to"


def test_features_that_are_all_zero_give_zero():
    _, fast = pair("linear_attention")
    angles = rand(3, 8)
    out, own = fast.linear_self_attention(
        -torch.ones(1, 3, 48),
        torch.ones(16),
        torch.ones(16),
        (angles.cos(), angles.sin()),
        None,
        1,
        1e-5,
        1e-8,
    )
    assert not out.any()
    assert not own.ksum.any()


def test_the_sum_does_not_depend_on_how_it_is_split(monkeypatch):
    _, fast = pair("linear_attention")
    angles = rand(50, 8)
    given = (rand(1, 50, 48), rand(16), rand(16), (angles.cos(), angles.sin()), None, 1, 1e-5, 1e-8)
    _, whole = fast.linear_self_attention(*given)
    monkeypatch.setattr(fast, "SPLIT_TOKENS", 32)
    _, split = fast.linear_self_attention(*given)
    assert max(relative(a, b) for a, b in zip(whole, split, strict=True)) < NEAR
