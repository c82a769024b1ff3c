"""Rows that lie 2^29 numbers apart: the fifth begins where 32 bits end.

The memory is asked for, and hardly any of it is used.

test_gpu.py does the same to the depthwise kernel, with all of the memory in use.
"""

import pytest
import torch
from support.interpreted import interpreter, pair, relative  # noqa: F401  the fixture is for all tests here

FAR, ROWS = 2**29, 5
NEAR, HALF = 1e-6, 1e-3  # of float32, and where float16 is rounded


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


def test_residual_mix():
    """What the newest sum becomes; and its mix with another one: their mean, where logits are 0."""
    _, fast = pair("residual_mix")
    (x, some), (newest, _), (mix, _), (h, _) = (rows(16, seed) for seed in range(4))
    logits, flags = torch.zeros(ROWS, 1), dict.fromkeys(("HAS_EXTRA", "WANT_LOGITS", "ROW_SCALES"), False)
    few = [torch.zeros(16)] * 4
    fast._residual_mix[(ROWS,)](
        x, x, x, *few, *(x,) * 5, *(logits,) * 5, newest, logits, mix, h, logits,
        ROWS, ROWS, 1, 1, FAR, 0, 0, 0, 0.0, 1.0,
        **flags, HAS_BRANCH=True, HAS_GATE=False, WANT_MIX=True, OTHERS=1, READERS=1, READER=0, TILE=16,
        TILES=1, LARGEST=448.0, LEAST=0.0,
    )  # fmt: skip
    assert torch.equal(newest.view(ROWS, FAR)[:, :16], 2 * some)
    assert relative(mix.view(ROWS, FAR)[:, :16], 1.5 * some) < NEAR
    assert h.view(ROWS, FAR)[:, :16].isfinite().all()


def test_gated_product():
    plain, fast = pair("gated_product")
    (x, some), (y, _) = rows(16, 0), rows(16, 1)
    fast._gated_product[(ROWS,)](
        x, x, y, x, FAR, SILU=True, ROW_SCALES=False, TILE=16, TILES=1, LARGEST=448.0, LEAST=0.0
    )
    assert relative(y.view(ROWS, FAR)[:, :16], plain.silu_product(some, some)) < NEAR


def test_rotated_rows():
    plain, fast = pair("gated_attention")
    x, some = rows(48, 0)
    weight, angles, out = torch.ones(16), torch.randn(ROWS, 8), torch.empty(ROWS, 16)
    cos, sin = angles.cos(), angles.sin()
    fast._rotated_rows[(1, 1)](
        x[16:], weight, cos, sin, x, out, ROWS, 1, ROWS, FAR, 1e-5, HAS_STRENGTH=False, **fast._tiles(16, 1)
    )
    truth = plain.rotated_rows(some.contiguous()[None], 1, weight, (cos, sin), 1, 1e-5)
    assert relative(out, truth[0]) < NEAR


def _rows_of_pictures(steps, rows, dtype=torch.float16):
    """Pictures [1, steps, rows, 2^14, 4] of which the first 16 pixels are random, and these pixels."""
    try:
        whole = torch.empty(1, steps, rows, 2**14, 4, dtype=dtype)
    except RuntimeError:
        pytest.skip("this machine hands out no 9 GB, not even unused ones")
    few = whole[:, :, :1, :16]
    few.copy_(torch.randn(few.shape, generator=torch.Generator().manual_seed(steps)))
    return whole, few.float()


CAUSAL = {
    "C": 4, "LEAST": 1e-12, "HAS_BIAS": False, "HAS_RESIDUAL": False, "SUBPIXELS": False, "PAIRS": False,
    "PIXELS": 16, "BLOCK": 4,
}  # fmt: skip


def test_time_steps():
    """The first program of a picture; where the steps lie, the frames that are seen, and the past."""
    plain, fast = pair("causal_frames")
    (x, new), (past, old) = _rows_of_pictures(5, 2**13), _rows_of_pictures(2, 2**13)
    seen, kept = torch.empty(1, 7, *x.shape[2:], dtype=x.dtype), torch.empty_like(past)
    fast._causal_frames[(1, 7, 1)](
        *(x,) * 7, past, x, seen, kept, 5, 2**13, 2**14, **CAUSAL, HAS_PAST=True, NORM=False, TOTAL=False,
        SEEN=True, STACKED=False,
    )  # fmt: skip
    truth = plain.causal_frames(plain.Parts(new), old, None)
    assert relative(seen[:, :, :1, :16], truth.seen) < NEAR
    assert relative(kept[:, :, :1, :16], truth.kept) < NEAR


def test_pairs_of_time_steps():
    plain, fast = pair("causal_frames")
    (x, new), (past, old) = _rows_of_pictures(2, 2**14), _rows_of_pictures(2, 2**14)
    seen, kept, gamma = torch.empty(4, 1, 1, *x.shape[2:], dtype=x.dtype), torch.empty_like(x), torch.ones(4)
    fast._paired_frames[(1, 1)](
        *(x,) * 6, gamma, past, x, seen, kept, 1, 2**14, 2**14, **CAUSAL, TOTAL=False, COUNT=1
    )
    truth = plain.paired_frames(plain.Parts(new), old, gamma)
    assert relative(seen[:, :, :, :1, :16], truth.seen) < HALF
    assert relative(kept[:, :, :1, :16], truth.kept) < HALF


def test_taps():
    plain, fast = pair("tap_sum")
    planes = torch.empty(3, 3, 3, 3, 1, 3, 2**12, 2**12, dtype=torch.float16)
    few = planes[..., :2, :513]
    few.copy_(torch.randn(few.shape, generator=torch.Generator().manual_seed(0)))
    bias, out = torch.ones(3), torch.empty(1, 3, 1, 2**12, 2**12)
    fast._sum_of_taps[(1, 1, 3)](planes, bias, out, 1, 2**12, 2**12, 3 * 2**24, CHANNELS=3, PIXELS=512)
    truth = plain.sum_of_taps(few.float(), bias)
    assert relative(out[..., :1, :512], truth[..., :1, :512]) < NEAR
