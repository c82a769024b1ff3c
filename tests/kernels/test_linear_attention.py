"""The plain linear attention against the paper's two lines in float64, on awkward inputs."""

import pytest
import torch
from comfyui_sana_video.kernels.linear_attention import linear_attention
from support.pack import assert_close


def _inputs(tokens, *, batch=2, heads=3, size=112, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v, angle = (torch.randn(batch, heads, tokens, size, generator=generator) for _ in range(4))
    return q.relu(), k.relu(), q.relu() * angle.cos(), k.relu() * angle.sin(), v


def _two_lines(q, k, q_rotated, k_rotated, v, eps=1e-8):
    q, k, q_rotated, k_rotated, v = (x.double() for x in (q, k, q_rotated, k_rotated, v))
    return (q_rotated @ k_rotated.mT) @ v / ((q @ k.mT).sum(-1, keepdim=True) + eps)


@pytest.mark.parametrize("tokens", [1, 2, 63, 105])
def test_formula(tokens):
    inputs = _inputs(tokens)
    out, sums = linear_attention(*inputs, None, 1e-8)
    assert_close(out, _two_lines(*inputs), 1e-4 * _two_lines(*inputs).abs().max().item())
    assert (sums.vk.shape, sums.ksum.shape) == ((2, 3, 112, 112), (2, 3, 112))


def test_past_and_present_are_one_sum():
    """The second half with the first half's sums is the second half of the whole with a mask."""
    whole = _inputs(40)
    first, second = ([x[:, :, part] for x in whole] for part in (slice(0, 25), slice(25, 40)))
    _, past = linear_attention(*first, None, 1e-8)
    out, sums = linear_attention(*second, past, 1e-8)
    everything, total = linear_attention(*whole, None, 1e-8)
    assert_close(out, everything[:, :, 25:], 1e-4)
    assert_close((past + sums).vk, total.vk, 1e-4)


def test_features_that_are_all_zero_give_zero():
    q, k, *rest, v = _inputs(7)
    out, _ = linear_attention(torch.zeros_like(q), k, torch.zeros_like(q), rest[1], v, None, 1e-8)
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_keep_float32_sums(dtype):
    inputs = [x.to(dtype) for x in _inputs(105)]
    out, sums = linear_attention(*inputs, None, 1e-8)
    assert (out.dtype, sums.vk.dtype, sums.ksum.dtype) == (dtype, torch.float32, torch.float32)
    assert_close(out.float(), _two_lines(*inputs).to(dtype).float(), 0.05)


def test_inputs_of_any_layout_are_untouched():
    inputs = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in _inputs(20)]
    copies = [x.clone() for x in inputs]
    _, past = linear_attention(*inputs, None, 1e-8)
    before = [x.clone() for x in past]
    out, _ = linear_attention(*inputs, past, 1e-8)
    assert all(map(torch.equal, inputs, copies))
    assert all(map(torch.equal, past, before))
    assert torch.equal(out, linear_attention(*copies, past, 1e-8)[0])
