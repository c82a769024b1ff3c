"""Rows that lie 2^29 numbers apart: the fifth begins where 32 bits end.

The memory is asked for, and hardly any of it is used.

test_gpu.py does the same to the depthwise kernel, with all of the memory in use.
"""

import pytest
import torch
from support.interpreted import interpreter, pair, relative  # noqa: F401  the fixture is for all tests here

FAR, ROWS = 2**29, 5
NEAR = 1e-6


def rows(width, seed, dtype=torch.float32):
    """(a large tensor, its first `width` numbers of each row, random)."""
    try:
        whole = torch.empty(ROWS * FAR, dtype=dtype)
    except RuntimeError:
        pytest.skip("this machine hands out no 10 GB, not even unused ones")
    few = whole.view(ROWS, FAR)[:, :width]
    few.copy_(torch.randn(few.shape, generator=torch.Generator().manual_seed(seed)))
    return whole, few


def test_residual():
    _, fast = pair("residual_norm")
    (x, some), (out, _) = rows(16, 0), rows(16, 1)
    flags = {
        "HAS_BIAS": False,
        "HAS_BRANCH": True,
        "HAS_EXTRA": False,
        "HAS_GATE": False,
        "HAS_NORM": False,
        "ROW_SCALES": False,
    }
    fast._residual_norm[(ROWS,)](
        x, x, x, x, x, x, x, out, out, out, ROWS, ROWS, 1, FAR, 0, 0, 0, 0, 0.0,
        **flags, BLOCK=16, LARGEST=448.0, LEAST=0.0,
    )  # fmt: skip
    assert torch.equal(out.view(ROWS, FAR)[:, :16], 2 * some)


def test_rows_in_8_bits(monkeypatch):
    plain, fast = pair("fp8_gemm")
    x, some = rows(16, 0)
    values, scales = torch.empty(ROWS * FAR, dtype=plain.FP8), torch.empty(ROWS)
    fast._fp8_rows[(ROWS,)](x, values, scales, FAR, 0, TAPS=1, PADDED=1, BLOCK=16, LARGEST=448.0, LEAST=0.0)
    assert relative(scales, plain.fp8_rows(some).scales[:, 0]) < NEAR
    restored = values.view(ROWS, FAR)[:, :16].float() * scales[:, None]
    assert (restored - some).norm(dim=1).div(
        some.norm(dim=1)
    ).max() < 0.3  # the interpreter rounds a few wrongly


def test_linear_attention():
    plain, fast = pair("linear_attention")
    x, some = rows(48, 0)
    qkv, weight, angles = some.contiguous()[None], torch.ones(16), torch.randn(ROWS, 8)
    cos, sin = angles.cos(), angles.sin()
    total = plain.key_value_sum(qkv, weight, (cos, sin), 1, 1e-5)
    truth = plain.query_rows(qkv, weight, (cos, sin), total.ksum, 1, 1e-5, 1e-8)
    keys, vk, ksum, out = (torch.empty(*shape) for shape in ((ROWS, 16), (16, 16), (16,), (ROWS, 16)))
    tiles, size = fast._tiles(16, 1), {"HEAD": 16, "D": 16}
    fast._key_rows[(1, 1)](x[16:], weight, cos, sin, keys, ksum, ROWS, 1, ROWS, FAR, 1e-5, **tiles)
    fast._sums[(1, 1, 1)](keys, x[32:], vk, ROWS, 1, 16, 16, FAR, **size, N=16)
    assert relative(vk, total.vk[0, 0]) < NEAR
    assert relative(ksum, total.ksum[0, 0]) < NEAR
    fast._query_rows[(1, 1)](
        x, weight, cos, sin, ksum, out, ROWS, 1, ROWS, FAR, 1e-5, 1e-8, **tiles, LEAST=0.0
    )
    assert relative(out, truth[0]) < NEAR
