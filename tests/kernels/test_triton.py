"""The Triton kernels against the plain versions in float64, at odd shapes; outputs are poisoned before."""

import pytest
import torch
from support.interpreted import attention, interpreter, pair, poison, relative  # noqa: F401  fixtures for all

NEAR = 1e-6


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (2, 6, 3, 112), (3, 5, 1, 33), (1, 4, 2, 2240)], ids=str)
@pytest.mark.parametrize("parts", ["norm", "branch", "gate", "extra"])
@pytest.mark.parametrize("biased", [False, True])
def test_residual_norm(shape, parts, biased):
    plain, fast = pair("residual_norm")
    batch, tokens, groups, width = shape
    x, branch, extra = (rand(batch, tokens, width, seed=s) for s in range(3))
    gate, shift, scale = (rand(batch, groups, width, seed=s) for s in range(3, 6))
    bias = 3 * rand(width, seed=6) if biased else None
    if parts == "extra":
        arguments = (x, branch, gate, extra, bias)
        assert relative(fast.gated_residual(*arguments), plain.gated_residual(*arguments)) < NEAR
        return
    arguments = (
        x,
        None if parts == "norm" else branch,
        gate if parts == "gate" else None,
        shift,
        scale,
        1e-6,
        bias,
    )
    for output, truth in zip(fast.residual_norm(*arguments), plain.residual_norm(*arguments), strict=True):
        assert relative(output, truth) < NEAR


def test_residual_norm_of_views():
    """Clips that lie apart, tables of one row for all clips, columns of a wider tensor."""
    plain, fast = pair("residual_norm")
    x, wide = rand(2, 6, 48), rand(2, 10, 48)
    branch, gate = wide[:, 2:8], rand(1, 2, 48).expand(2, -1, -1)
    shift, scale = rand(2, 2, 6, 48)[:, :, 1], rand(2, 2, 96)[:, :, ::2]
    arguments = (x.transpose(0, 1).contiguous().transpose(0, 1), branch, gate, shift, scale, 1e-6)
    for output, truth in zip(fast.residual_norm(*arguments), plain.residual_norm(*arguments), strict=True):
        assert relative(output, truth) < NEAR


@pytest.mark.parametrize(
    "shape", [(1, 5, 7, 8), (2, 1, 9, 66), (3, 4, 1, 16), (1, 1, 1, 1), (1, 6, 5, 130)], ids=str
)
def test_gated_depthwise(shape):
    plain, fast = pair("gated_depthwise")
    images, rows, columns, hidden = shape
    arguments = (
        rand(images, rows * columns, 2 * hidden),
        rand(2 * hidden),
        rand(2 * hidden, 1, 3, 3),
        rand(2 * hidden, seed=1),
    )
    truth = plain.gated_depthwise(*(x.double() for x in arguments), rows, columns)
    assert relative(fast.gated_depthwise(*arguments, rows, columns), truth) < NEAR


def test_gated_depthwise_outside_of_the_image_is_nothing():
    """A bias makes silu(0 + bias) large: padding must be zero behind the activation, not before it."""
    plain, fast = pair("gated_depthwise")
    arguments = (torch.zeros(1, 4, 8), torch.full((8,), 5.0), torch.ones(8, 1, 3, 3), torch.zeros(8))
    assert relative(fast.gated_depthwise(*arguments, 2, 2), plain.gated_depthwise(*arguments, 2, 2)) < NEAR


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 48), (2, 33, 2, 112), (1, 40, 3, 20), (1, 65, 1, 128), (1, 3, 9, 16)], ids=str
)
@pytest.mark.parametrize("carried", [False, True])
def test_linear_attention(shape, carried, monkeypatch):
    plain, fast = pair("linear_attention")
    monkeypatch.setattr(fast, "LEAST_SPLIT", 32)
    monkeypatch.setattr(fast, "KEY_ROWS", 16)
    batch, tokens, heads, size = shape
    width = heads * size
    angles = rand(tokens, size // 2)
    tables = (angles.cos(), angles.sin())
    arguments = (rand(batch, tokens, 3 * width), rand(width), rand(width, seed=1), tables)
    past = (
        plain.KeyValueSum(rand(batch, heads, size, size), rand(batch, heads, size).abs()) if carried else None
    )
    kept = None if past is None else [x.clone() for x in past]
    out, fast_sums = attention(fast, *arguments, past, heads, 1e-5, 1e-8)
    double = (*(x.double() for x in arguments[:3]), arguments[3])
    truth, sums = attention(plain, *double, past, heads, 1e-5, 1e-8)
    assert relative(out, truth) < NEAR
    assert max(relative(a, b) for a, b in zip(fast_sums, sums, strict=True)) < NEAR
    if past is not None:
        assert all(torch.equal(a, b) for a, b in zip(past, kept, strict=True)), "the past was written to"


@pytest.mark.parametrize("shape", [(1, 1, 1, 48), (2, 70, 2, 112), (1, 65, 3, 20), (2, 9, 5, 128)], ids=str)
def test_folded_weight(shape):
    plain, fast = pair("linear_attention")
    batch, rows, heads, size = shape
    weight, ksum = rand(rows, heads * size), rand(batch, heads, size).abs()
    total = plain.KeyValueSum(rand(batch, heads, size, size), ksum)
    truth = plain.folded_weight(weight.double(), plain.KeyValueSum(*(part.double() for part in total)))
    assert relative(fast.folded_weight(weight, total), truth) < NEAR


def test_a_head_without_keys_is_nothing():
    """And not what everything else is small beside: FP8 has one scale for all heads."""
    for version in pair("linear_attention"):
        qkv, weight, rotary = rand(1, 9, 96), torch.ones(32), (torch.ones(9, 8), torch.zeros(9, 8))
        total = version.key_value_sum(qkv, torch.tensor([0.0] * 16 + [1.0] * 16), rotary, 2, 1e-5)
        assert not total.vk[:, 0].any()
        queries = version.query_rows(qkv, weight, rotary, total.ksum, 2, 1e-5, 1e-8)
        folded = version.folded_weight(rand(5, 32), total)
        assert not queries[..., :16].any()
        assert not folded[..., :16].any()
        assert 0.1 < queries.abs().max() < 10
        assert 0.1 < folded.abs().max() < 10


def test_heads_are_of_one_size():
    """Whatever the size of their keys: a factor of a million between two heads leaves queries and weights as
    they are.
    """
    for version in pair("linear_attention"):
        qkv, weight, rotary = rand(1, 9, 96), torch.ones(32), (torch.ones(9, 8), torch.zeros(9, 8))
        scaled = []
        for factor in (1.0, 1e-6):
            keys = torch.cat([torch.full((16,), factor), torch.ones(16)])
            total = version.key_value_sum(qkv, keys, rotary, 2, 1e-5)
            queries = version.query_rows(qkv, weight, rotary, total.ksum, 2, 1e-5, 0.0)
            scaled.append((queries, version.folded_weight(rand(5, 32), total)))
        assert max(relative(a, b) for a, b in zip(*scaled, strict=True)) < 1e-5


def test_sums_of_many_tokens_are_split(monkeypatch):
    """A part for each program, and no more than enough."""
    plain, fast = pair("linear_attention")
    monkeypatch.setattr(fast, "LEAST_SPLIT", 32)
    arguments = (rand(1, 140, 48), torch.ones(16), (torch.ones(140, 8), torch.zeros(140, 8)), 1, 1e-5)
    truth, launched = plain.key_value_sum(*arguments), []
    kernel = fast._sums

    class Counted:
        def __getitem__(self, grid):
            launched.append(grid[0])
            return kernel[grid]

    monkeypatch.setattr(fast, "_sums", Counted())
    for programs, splits in ((1, 2), (2, 3), (480, 5)):
        monkeypatch.setattr(fast, "PROGRAMS", programs)
        sums = fast.key_value_sum(*arguments)
        assert max(relative(a, b) for a, b in zip(sums, truth, strict=True)) < NEAR
        assert launched.pop() == splits


def test_temporal_taps():
    plain, fast = pair("temporal_taps")
    for weight in (rand(5, 33, 3, 1), rand(3, 5, 8, 1).permute(1, 2, 0, 3), rand(4, 4, 3, 1).mul(2)):
        assert torch.equal(fast.temporal_taps(weight), plain.temporal_taps(weight))
        assert torch.equal(plain.temporal_taps(weight)[:, 2], weight[:, :, 2, 0])


def test_features_that_are_all_zero_give_zero():
    _, fast = pair("linear_attention")
    angles = rand(3, 8)
    out, sums = attention(
        fast,
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
    assert not sums.ksum.any()


def test_the_sum_does_not_depend_on_how_it_is_split(monkeypatch):
    _, fast = pair("linear_attention")
    angles = rand(50, 8)
    arguments = (rand(1, 50, 48), rand(16), rand(16), (angles.cos(), angles.sin()), None, 1, 1e-5, 1e-8)
    _, whole = attention(fast, *arguments)
    monkeypatch.setattr(fast, "LEAST_SPLIT", 32)
    _, split = attention(fast, *arguments)
    assert max(relative(a, b) for a, b in zip(whole, split, strict=True)) < NEAR


# ---------------------------------------------------------------- awkward inputs


def test_epsilons_are_those_that_are_given():
    """Numbers so small that each one counts."""
    plain, fast = pair("residual_norm")
    x, table = 1e-4 * rand(1, 4, 33), rand(1, 1, 33)
    for eps in (1e-6, 1e-3):
        truth = plain.residual_norm(x, None, None, table, table, eps)[1]
        assert relative(fast.residual_norm(x, None, None, table, table, eps)[1], truth) < NEAR
    plain, fast = pair("linear_attention")
    angles = rand(5, 8)
    for norm_eps, eps in ((1e-5, 1e-8), (1e-2, 1e-8), (1e-5, 1.0)):
        arguments = (
            1e-3 * rand(1, 5, 48),
            rand(16),
            rand(16),
            (angles.cos(), angles.sin()),
            None,
            1,
            norm_eps,
            eps,
        )
        output, truth = attention(fast, *arguments)[0], attention(plain, *arguments)[0]
        assert relative(output, truth) < 1e-5


def strided(x):
    """The same numbers, in a layout that a pointer and a length do not describe."""
    wide = torch.zeros(*x.shape, 2)
    wide[..., 0] = x
    return wide[..., 0]


def test_layouts_do_not_matter():
    plain, fast = pair("residual_norm")
    x, branch, extra = (strided(rand(2, 6, 33, seed=s)) for s in range(3))
    gate, shift, scale = (strided(rand(2, 3, 33, seed=s)) for s in range(3, 6))
    arguments = (x, branch, gate, extra)
    assert relative(fast.gated_residual(*arguments), plain.gated_residual(*arguments)) < NEAR
    # one for all clips, one for all frames
    arguments = (x, branch[:1], gate, shift[:, :1], scale[:1, :1], 1e-6)
    for output, truth in zip(fast.residual_norm(*arguments), plain.residual_norm(*arguments), strict=True):
        assert relative(output, truth) < NEAR
    with pytest.raises(ValueError, match="6 tokens cannot be modulated in 4 groups"):
        fast.residual_norm(x, None, None, rand(2, 4, 33), rand(2, 4, 33), 1e-6)
    plain, fast = pair("gated_depthwise")
    arguments = (rand(2, 6, 8), rand(8), rand(8, 1, 3, 3), rand(8, seed=1))
    truth = plain.gated_depthwise(*arguments, 2, 3)
    assert relative(fast.gated_depthwise(*map(strided, arguments), 2, 3), truth) < NEAR
    arguments = (arguments[0], arguments[1], arguments[2], rand(1).expand(8))
    assert relative(fast.gated_depthwise(*arguments, 2, 3), plain.gated_depthwise(*arguments, 2, 3)) < NEAR
    plain, fast = pair("linear_attention")
    angles, past = rand(7, 8), plain.KeyValueSum(rand(1, 2, 16, 16), rand(1, 2, 16).abs())
    qkv, q, k = rand(1, 7, 96), rand(32), rand(32, seed=1)
    truth = attention(plain, qkv, q, k, (angles.cos(), angles.sin()), past, 2, 1e-5, 1e-8)
    tables, sums = (strided(angles.cos()), strided(angles.sin())), plain.KeyValueSum(*map(strided, past))
    output = attention(fast, *map(strided, (qkv, q, k)), tables, sums, 2, 1e-5, 1e-8)
    assert relative(output[0], truth[0]) < NEAR
    weight, bias = rand(32, 32), rand(33)
    folded = fast.folded_weight(strided(weight), plain.KeyValueSum(*map(strided, past)))
    assert relative(folded, plain.folded_weight(weight, past)) < NEAR
    plain, fast = pair("residual_norm")
    output, truth = (version.gated_residual(x, x, None, None, strided(bias)) for version in (fast, plain))
    assert relative(output, truth) < NEAR
