"""causal_frames and sum_of_taps: the plain versions against convolutions of torch, Triton's against them."""

import pytest
import torch
import torch.nn.functional as F
from comfyui_sana_video.kernels.causal_frames import reference as plain
from comfyui_sana_video.kernels.tap_sum import reference as plain_taps
from support.interpreted import interpreter, pair, relative  # noqa: F401  a fixture for the tests here

SIZE = (2, 3, 4, 6, 12)  # batch, steps, rows, columns, channels


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def parts(*given, size=SIZE):
    """Parts with the given ones: of x, bias, residual, subpixels and pairs."""
    batch, steps, rows, columns, channels = size
    if "subpixels" in given:
        x = rand(batch, steps, rows // 2 + 1, columns // 2 + 1, 4 * channels)
    elif "pairs" in given:
        x = tuple(rand(batch, steps // 2, rows, columns, channels, seed=3 + part) for part in range(4))
    else:
        x = rand(*size)
    bias = 3 * rand(channels, seed=1) if "bias" in given else None
    residual = rand(*size, seed=2) if "residual" in given else None
    return plain.Parts(x, bias, residual, "subpixels" in given)


CASES = [(), ("bias",), ("bias", "residual"), ("bias", "subpixels"), ("bias", "residual", "pairs")]


def test_subpixels_are_nearest_upsampling_and_a_convolution():
    """A 3 x 3 convolution behind the repetition of pixels is four of 2 x 2 on the small picture."""
    from comfyui_sana_video.sana_video_core.vae.fused_weights import subpixel_weight

    x, weight = rand(2, 5, 3, 4), rand(7, 5, 3, 3, seed=1)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest-exact"), weight, padding=1)
    small = F.conv2d(x, subpixel_weight(weight), padding=1).permute(0, 2, 3, 1).unsqueeze(1)
    assert relative(plain.unshuffled(small).squeeze(1).permute(0, 3, 1, 2), expected) < 1e-6


def test_taps_are_a_convolution():
    seen, weight, bias = rand(2, 5, 4, 6, 12), rand(3, 12, 3, 3, 3, seed=1), rand(3)
    expected = F.conv3d(seen.permute(0, 4, 1, 2, 3), weight, bias, padding=(0, 1, 1))
    rows = weight.permute(2, 3, 4, 0, 1).flatten(0, 3)  # [27 * 3, C]
    planes = (rows @ seen.flatten(0, 3).T).view(3, 3, 3, 3, 2, 5, 4, 6)
    assert relative(plain_taps.sum_of_taps(planes, bias), expected) < 1e-6


def test_stacked_frames_are_the_same_three_time_steps():
    past, gamma = rand(2, 2, 4, 6, 12, seed=3), rand(12)
    _, seen, kept = plain.causal_frames(parts("bias"), past, gamma, stacked=False)
    _, stacked, same = plain.causal_frames(parts("bias"), past, gamma, stacked=True)
    assert torch.equal(kept, same)
    assert torch.equal(kept, seen[:, -2:])
    assert torch.equal(seen[:, :2], past)
    for tap in range(3):
        assert torch.equal(stacked[..., 12 * tap : 12 * (tap + 1)], seen[:, tap : tap + 3])


def test_pairs_are_a_convolution_over_time():
    """Four products of sums and differences give both time steps of every pair."""
    past, gamma = rand(2, 2, 4, 6, 12, seed=3), 1 + 0.3 * rand(12)
    given = parts("bias", size=(2, 4, 4, 6, 12))
    weight = rand(5, 12, 3)
    seen = plain.causal_frames(given, past, gamma).seen
    expected = sum(seen[:, tap : tap + 4] @ weight[..., tap].T for tap in range(3))
    four = plain.paired_frames(given, past, gamma).seen
    taps = plain.paired_taps(*weight.unbind(-1))
    products = tuple(part @ tap.T for part, tap in zip(four, taps, strict=True))
    assert relative(plain.pairs_from(products), expected) < 1e-6


@pytest.mark.parametrize("scale", [1, 1e-8, 1e-13])
def test_the_norm_is_the_layers(scale):
    """On both sides of the least length, too."""
    from comfyui_sana_video.sana_video_core.vae.layers import rms_norm

    x, gamma = scale * rand(*SIZE), 1 + 0.3 * rand(12)
    new = plain.causal_frames(plain.Parts(x), None, gamma).seen[:, 2:]
    assert relative(new, F.silu(rms_norm(x, gamma, axis=-1))) < 1e-6


def _same(fast, plain):
    for out, truth in zip(fast, plain, strict=True):
        assert (out is None) == (truth is None)
        assert truth is None or relative(out, truth) < 1e-6


@pytest.mark.parametrize("given", CASES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_triton(given, steps):
    _, fast = pair("causal_frames")
    if "pairs" in given and steps == 1:
        return
    sums, past, gamma = (
        parts(*given, size=(2, steps, 4, 6, 12)),
        rand(2, 2, 4, 6, 12, seed=3),
        1 + 0.3 * rand(12),
    )
    assert relative(fast.summed(sums), plain.summed(sums)) < 1e-6
    for arguments, flags in (
        ((sums, past, gamma), {"stacked": True, "want_total": True}),
        ((sums, past, None), {}),
        ((sums, None, gamma), {"want_total": True}),
        ((sums, None, None), {"stacked": True}),
    ):
        _same(fast.causal_frames(*arguments, **flags), plain.causal_frames(*arguments, **flags))
    if steps % 2 == 0:
        for flags in ({}, {"want_total": True}):
            _same(
                fast.paired_frames(sums, past, gamma, **flags),
                plain.paired_frames(sums, past, gamma, **flags),
            )


def test_triton_of_many_pixels_and_a_dark_one():
    """More than one program for a picture; a position whose channels are all zero stays zero."""
    _, fast = pair("causal_frames")
    x = rand(1, 2, 18, 38, 96)
    x[0, 0, 3, 5] = 0
    arguments = plain.Parts(x), rand(1, 2, 18, 38, 96, seed=1), torch.ones(96)
    out, truth = (version.causal_frames(*arguments) for version in (fast, plain))
    assert relative(out.seen, truth.seen) < 1e-6
    assert not out.seen[0, 2, 3, 5].any()
    assert relative(fast.paired_frames(*arguments).seen, plain.paired_frames(*arguments).seen) < 1e-6


@pytest.mark.parametrize("scale", [1e-8, 1e-13])
def test_triton_of_a_picture_in_the_dark(scale):
    """On both sides of the least length."""
    _, fast = pair("causal_frames")
    arguments = plain.Parts(scale * rand(*SIZE)), None, torch.ones(12)
    seen, truth = (version.causal_frames(*arguments).seen for version in (fast, plain))
    assert relative(seen, truth) < 1e-5


@pytest.mark.parametrize("given", [("bias", "residual"), ("subpixels",), ("pairs",)], ids=str)
def test_triton_reads_any_layout(given):
    """A cache of the plain layers has its channels first; pieces of a batch have gaps."""
    _, fast = pair("causal_frames")

    def scattered(x):
        return torch.stack((x, -x), dim=-1)[..., 0]

    sums, past, gamma = parts(*given, size=(2, 2, 4, 6, 12)), rand(2, 2, 4, 6, 12, seed=3), rand(12)
    x = tuple(map(scattered, sums.x)) if "pairs" in given else scattered(sums.x)
    residual = None if sums.residual is None else scattered(sums.residual)
    others = sums._replace(x=x, residual=residual), scattered(past), scattered(gamma)
    for version in (fast.causal_frames, fast.paired_frames):
        expected = version(sums, past, gamma, want_total=True)
        assert all(map(torch.equal, version(*others, want_total=True), expected))


def test_triton_of_a_pair_sees_what_is_kept():
    """A step counts the same as a new one and, rounded, as an old one."""
    _, fast = pair("causal_frames")
    x, past = (rand(1, 4, 4, 6, 12).half(), rand(1, 2, 4, 6, 12, seed=1).half())
    arguments = plain.Parts(x), past, torch.ones(12).half()
    four, e = fast.paired_frames(*arguments).seen, fast.causal_frames(*arguments).seen.float()
    for number in range(2):
        e0, e1, e2, e3 = e[:, 2 * number : 2 * number + 4].unbind(1)
        expected = torch.stack((e0 - e2, e1 + e2, e2 - e1, e1 - e3)).half()
        assert torch.equal(four[:, :, number], expected)


def test_triton_taps():
    _, fast = pair("tap_sum")
    for size in ((1, 3, 5, 7), (2, 4, 23, 31), (1, 3, 1, 1)):
        planes, bias = rand(3, 3, 3, 3, *size), rand(3)
        truth = plain_taps.sum_of_taps(planes, bias)
        assert relative(fast.sum_of_taps(planes, bias), truth) < 1e-6
        assert relative(fast.sum_of_taps(planes.mT.contiguous().mT, bias.repeat(2, 1).T[:, 0]), truth) < 1e-6
