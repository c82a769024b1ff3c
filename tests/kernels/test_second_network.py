"""The kernels of SANA-Video 2.0 against the plain versions, at odd shapes; outputs are poisoned."""

import pytest
import torch
from support.interpreted import interpreter, pair, poison, relative  # noqa: F401  fixtures for all tests here

NEAR = 1e-6


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def strided(x):
    """The same numbers, in a layout that a pointer and a length do not describe."""
    wide = torch.zeros(*x.shape, 2)
    wide[..., 0] = x
    return wide[..., 0]


def double(parts):
    return [part.double() if isinstance(part, torch.Tensor) else part for part in parts]


def close(fast, plain, arguments, near=NEAR):
    assert relative(fast(*arguments), plain(*double(arguments))) < near


# ---------------------------------------------------------------- residual_mix


def sources(count, shape, readers=3):
    """Sources whose logits are far apart for some tokens, so that every share counts somewhere."""
    plain, _ = pair("residual_mix")
    tokens = (*shape[:2], readers)
    return [plain.Source(rand(*shape, seed=j), 2 * rand(*tokens, seed=20 + j)) for j in range(count)]


def of_floats(mixed):
    return [part for part in mixed if part is not None]


def mixing(shape, others, parts, reader=1, groups=None):
    batch, tokens, given, width = shape
    groups = groups or given
    rows = [rand(batch, tokens, width, seed=s) for s in range(7, 10)]
    gate, shift, scale = (rand(batch, groups, width, seed=s) for s in range(10, 13))
    x, branch, extra = rows
    branch, gate, extra = {
        "alone": (None, None, None),
        "gate": (branch, gate, None),
        "extra": (branch, gate, extra),
        "no gate": (branch, None, extra),
    }[parts]
    readers = 3 * width**-0.5 * rand(3, width, seed=13)
    return x, branch, gate, extra, sources(others, x.shape), readers, reader, shift, scale, 1e-6, 1e-6


@pytest.mark.parametrize("shape, others, parts, reader", [
    ((1, 1, 1, 16), 0, "alone", 0),
    ((1, 2, 2, 56), 1, "gate", 0),
    ((1, 2, 1, 600), 1, "extra", 1),
    ((2, 2, 2, 33), 4, "gate", 2),
    ((1, 2, 1, 56), 5, "no gate", 1),
    ((2, 1, 1, 33), 3, "alone", 2),
], ids=str)  # fmt: skip
def test_residual_mix(shape, others, parts, reader):
    plain, fast = pair("residual_mix")
    arguments = (*mixing(shape, others, parts, reader), True, True)
    exact = double(arguments)
    exact[4] = [plain.Source(*double(source)) for source in arguments[4]]
    truth = plain.residual_mix(*exact)
    for output, expected in zip(fast.residual_mix(*arguments), truth, strict=True):
        assert relative(output, expected) < NEAR
    only = fast.residual_mix(*arguments[:-2])
    assert (only.logits, only.mix) == (None, None)
    assert torch.equal(only.h, fast.residual_mix(*arguments).h)


def test_the_mix_is_the_papers_formula():
    """Written out once more, for one token: keys are normalised, values are not."""
    x, *_, others, readers, _, shift, scale, eps, mix_eps = mixing((1, 1, 1, 16), 2, "alone")
    values = torch.stack([*(source.values[0, 0] for source in others), x[0, 0]]).double()
    keys = values / (values.square().mean(-1, keepdim=True) + mix_eps).sqrt()
    others = [source._replace(logits=(key @ readers.double().T).float()[None, None])
              for source, key in zip(others, keys, strict=False)]  # fmt: skip
    shares = torch.softmax(keys @ readers[2].double(), 0)
    truth = shares @ values
    for version in pair("residual_mix"):
        mixed = version.residual_mix(
            x, None, None, None, others, readers, 2, shift, scale, eps, mix_eps, True, True
        )
        assert relative(mixed.mix[0, 0], truth) < NEAR
        assert relative(mixed.logits[0, 0], keys[-1] @ readers.double().T) < NEAR
        centred = (truth - truth.mean()) / (truth.var(unbiased=False) + eps).sqrt()
        assert relative(mixed.h[0, 0], centred * (1 + scale[0, 0].double()) + shift[0, 0].double()) < NEAR


def test_one_source_is_itself():
    """Bit for bit, and nothing is written where nothing was added."""
    _, fast = pair("residual_mix")
    x, *rest = mixing((1, 2, 1, 56), 0, "alone")
    mixed = fast.residual_mix(x, *rest, True, True)
    assert mixed.newest is x
    assert mixed.mix is x


def test_shares_of_large_logits():
    """Beyond what exp holds in float32, either way."""
    plain, fast = pair("residual_mix")
    arguments = list(mixing((1, 2, 1, 33), 3, "gate"))
    arguments[4] = [source._replace(logits=200 * source.logits) for source in arguments[4]]
    for output, truth in zip(
        of_floats(fast.residual_mix(*arguments)), of_floats(plain.residual_mix(*arguments)), strict=True
    ):
        assert relative(output, truth) < NEAR


def test_epsilons_of_a_mix_are_those_that_are_given():
    plain, fast = pair("residual_mix")
    x, *rest, _, _ = mixing((1, 1, 1, 33), 2, "alone")
    x = 1e-4 * x
    rest[3] = [source._replace(values=1e-4 * source.values) for source in rest[3]]
    for epsilons in ((1e-6, 1e-6), (1e-3, 1e-6), (1e-6, 1e-9)):
        outputs = [version.residual_mix(x, *rest, *epsilons, True, True) for version in (fast, plain)]
        assert max(relative(a, b) for a, b in zip(*outputs, strict=True)) < NEAR


def test_layouts_of_a_mix_do_not_matter():
    plain, fast = pair("residual_mix")
    x, branch, gate, extra, others, readers, *rest = mixing((2, 2, 2, 33), 2, "extra")
    shift, scale = rest[1][:, :1], rest[2][:1, :1]
    truth = plain.residual_mix(
        x, branch, gate[:1], extra, others, readers, 1, shift, scale, *rest[3:], True, True
    )
    apart = [pair("residual_mix")[0].Source(*map(strided, source)) for source in others]
    output = fast.residual_mix(
        strided(x), strided(branch), strided(gate[:1]), strided(extra), apart, strided(readers), 1,
        strided(shift), strided(scale), *rest[3:], True, True,
    )  # fmt: skip
    assert max(relative(a, b) for a, b in zip(output, truth, strict=True)) < NEAR


def test_a_mix_that_cannot_be():
    _, fast = pair("residual_mix")
    with pytest.raises(ValueError, match="7 sources were given; the kernel mixes at most 6"):
        fast.residual_mix(*mixing((1, 4, 1, 16), 6, "alone"))
    with pytest.raises(ValueError, match="6 tokens cannot be modulated in 4 groups"):
        fast.residual_mix(*mixing((1, 6, 4, 16), 1, "alone"))


# ---------------------------------------------------------------- gated_attention


def table(tokens, size):
    angles = rand(tokens, size // 2)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("shape", [(1, 1, 1, 48), (2, 2, 5, 14), (1, 1, 2, 256)], ids=str)
@pytest.mark.parametrize("which, strong", [(0, False), (1, True)])
def test_rotated_rows(shape, which, strong):
    plain, fast = pair("gated_attention")
    batch, tokens, heads, size = shape
    width = heads * size
    strength = 3 * rand(batch, tokens, heads) if strong else None
    arguments = rand(batch, tokens, 3 * width), which, rand(width), table(tokens, size), heads, 1e-5, strength
    output, truth = fast.rotated_rows(*arguments), plain.rotated_rows(*arguments)
    assert relative(output, truth) < NEAR
    # so small that the epsilon counts, and in a layout that a pointer and a length do not describe
    small = 1e-3 * arguments[0], *arguments[1:]
    apart = [strided(part) if isinstance(part, torch.Tensor) else part for part in small]
    assert relative(fast.rotated_rows(*apart), plain.rotated_rows(*small)) < NEAR


@pytest.mark.parametrize("shape", [(1, 1, 1, 48), (2, 40, 3, 14), (1, 140, 2, 20)], ids=str)
def test_key_value_product(shape, monkeypatch):
    plain, fast = pair("gated_attention")
    monkeypatch.setattr(pair("linear_attention")[1], "LEAST_SPLIT", 32)
    batch, tokens, heads, size = shape
    qkv, width = rand(batch, tokens, 3 * heads * size), heads * size
    keys, values = qkv[:, :, width : 2 * width].contiguous(), qkv[:, :, 2 * width :]
    truth = plain.key_value_product(keys.double(), values.double(), heads)
    one = keys[0, :, :size].double().T @ values[0, :, :size].double()
    assert relative(truth[0, 0], one) < 1e-6, "rows are the key's dimensions"
    assert relative(fast.key_value_product(keys, values, heads), truth) < NEAR
    assert relative(fast.key_value_product(strided(keys), strided(values), heads), truth) < NEAR


@pytest.mark.parametrize("shape", [(1, 1, 1, 48), (2, 70, 1, 14), (1, 9, 2, 128)], ids=str)
def test_gated_heads(shape):
    plain, fast = pair("gated_attention")
    batch, tokens, heads, size = shape
    rows = (batch, tokens, heads * size)
    arguments = [rand(*rows), 30 * rand(batch, heads, size, size), rand(size), 2 * rand(*rows, seed=1), 1e-5]
    close(fast.gated_heads, plain.gated_heads, arguments)
    assert relative(fast.gated_heads(*map(strided, arguments[:4]), 1e-5),
                    plain.gated_heads(*arguments)) < NEAR  # fmt: skip
    arguments[1] = 1e-5 * arguments[1]  # so small that the epsilon counts
    for arguments[4] in (1e-5, 1e-7):
        close(fast.gated_heads, plain.gated_heads, arguments)


# ---------------------------------------------------------------- gated_product


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter's; sigmoid is 0 there
@pytest.mark.parametrize("shape", [(1, 16), (2, 2, 56), (1, 1025)], ids=str)
@pytest.mark.parametrize("name", ["silu_product", "sigmoid_product"])
def test_gated_product(shape, name):
    plain, fast = (getattr(version, name) for version in pair("gated_product"))
    arguments = rand(*shape), 4 * rand(*shape, seed=1)
    close(fast, plain, arguments)
    assert torch.equal(fast(*map(strided, arguments)), fast(*arguments))
    far = torch.tensor([[1.0, 1.0, 2.0]]), torch.tensor([[-200.0, 200.0, 0.0]])
    assert torch.equal(fast(*far), plain(*far))


# ---------------------------------------------------------------- in 8 bits


@pytest.fixture
def unrounded(monkeypatch):
    """The kernels write what they would round: the interpreter rounds a few values to FP8 wrongly."""
    for name in ("residual_mix", "gated_product"):
        monkeypatch.setattr(pair(name)[1], "FP8", torch.float32)


@pytest.mark.parametrize("others, parts", [(0, "alone"), (2, "extra")])
def test_residual_mix_fp8(others, parts, unrounded):
    plain, fast = pair("residual_mix")
    arguments = (*mixing((1, 4, 2, 33), others, parts), True, True)
    output, truth = fast.residual_mix_fp8(*arguments), plain.residual_mix(*arguments)
    assert max(relative(a, b) for a, b in zip(output[:3], truth[:3], strict=True)) < NEAR
    assert relative(output.h.values * output.h.scales, truth.h) < NEAR
    assert relative(output.h.values.abs().amax(-1), torch.full((1, 4), 448.0)) < NEAR
    assert relative(plain.residual_mix_fp8(*arguments).h.scales, output.h.scales) < NEAR


@pytest.mark.parametrize("name", ["silu_product", "sigmoid_product"])
def test_gated_product_fp8(name, unrounded):
    plain, fast = pair("gated_product")
    arguments = rand(2, 1025), rand(2, 1025, seed=1)
    rows = getattr(fast, f"{name}_fp8")(*arguments)
    assert rows.scales.shape == (2, 1)
    assert relative(rows.values * rows.scales, getattr(plain, name)(*arguments)) < NEAR
    assert relative(rows.scales, getattr(plain, f"{name}_fp8")(*arguments).scales) < NEAR
