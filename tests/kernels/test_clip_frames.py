"""clip_frames: the plain version against the layers of the LTX VAE, Triton's against it."""

import itertools

import pytest
import torch
from comfyui_sana_video.kernels.causal_frames import paired_taps
from comfyui_sana_video.kernels.clip_frames import reference as plain
from comfyui_sana_video.sana_video_core.vae import ltx_layers
from comfyui_sana_video.sana_video_core.vae.fused_weights import channels_first, channels_last
from support.interpreted import interpreter, pair, relative  # noqa: F401  a fixture for the tests here

ROWS, COLUMNS, CHANNELS = 4, 6, 12


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def pending(frames, factor=(1, 1, 1), *, old=None, drop=0, channels=CHANNELS):
    """With a residual of `old` and newer frames, more than are needed; None for none."""
    a, b, c = factor
    size = ROWS // b, COLUMNS // c
    x, bias = rand(2, frames, *size, channels * a * b * c), rand(channels * a * b * c, seed=1)
    if old is None:
        return plain.Pending(x, 3 * bias, factor=factor, drop=drop)
    own = channels if factor == (1, 1, 1) else channels // 3 * a * b * c
    waiting = rand(2, old, *size, own, seed=2) if old else None
    return plain.Pending(x, 3 * bias, waiting, rand(2, frames + 2 - old, *size, own, seed=3), factor, drop)


FACTORS = (1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 2, 2)
CASES = [pending(2), pending(3, old=0), pending(3, old=2), pending(1, old=2)]
CASES += [pending(1, (2, 1, 1), drop=1), pending(2, (1, 2, 2), old=0), pending(1, (2, 2, 2), old=2)]
CASES += [pending(2, (2, 2, 2), old=1, drop=1), pending(2, (2, 1, 1))]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("old", [None, 0, 1])
def test_the_sum_is_what_the_layers_make(factor, old):
    given = pending(3, factor, old=old)
    # neighbours one after the other, where the layers have them side by side
    x = (given.x + given.bias).unflatten(4, (-1, CHANNELS)).transpose(4, 5).flatten(4)
    expected = ltx_layers.depth_to_space(channels_first(x), factor)
    if old is not None:
        waiting = given.new if given.old is None else torch.cat((given.old, given.new), dim=1)
        own = ltx_layers.depth_to_space(channels_first(waiting[:, :3]), factor)
        expected = expected + own.repeat(1, CHANNELS // own.shape[1], 1, 1, 1)
    assert relative(plain.clip_sum(given), channels_last(expected)) < 1e-6
    dropped = plain.clip_sum(given._replace(drop=1))
    assert torch.equal(dropped, plain.clip_sum(given)[:, 1:])


@pytest.mark.parametrize("front, last", [(1, False), (1, True), (2, False)])
def test_the_norm_and_the_ends_are_the_layers(front, last):
    given, past = pending(3, old=1), rand(2, 2, ROWS, COLUMNS, CHANNELS)
    new = channels_last(ltx_layers.active(channels_first(plain.clip_sum(given))))
    _, seen, kept = plain.clip_frames(given, None, front=front, last=last, active=True)
    behind = [new[:, -1:]] if last else []
    assert relative(seen, torch.cat([new[:, :1]] * front + [new, *behind], dim=1)) < 1e-6
    assert torch.equal(kept, seen[:, -2:])
    _, seen, _ = plain.clip_frames(given, past, front=front, last=last, active=True)
    assert relative(seen, torch.cat([past, new, *behind], dim=1)) < 1e-6


def test_a_border_is_the_convolutions():
    given = pending(2)
    options = {"front": 1, "last": True, "active": False}
    frames, bordered = (
        plain.clip_frames(given, None, reflect=reflect, **options).seen for reflect in (False, True)
    )
    conv = torch.nn.Conv3d(CHANNELS, 5, 3, padding=(0, 1, 1), padding_mode="reflect", bias=False)
    conv.requires_grad_(False)
    expected = conv(channels_first(frames))
    made = torch.nn.functional.conv3d(channels_first(bordered), conv.weight)
    assert relative(made, expected) < 1e-6


def test_stacked_frames_are_the_same_three():
    given, past = pending(3), rand(2, 2, ROWS, COLUMNS, CHANNELS)
    options = {"front": 1, "last": True, "active": True, "reflect": True}
    seen, stacked = (
        plain.clip_frames(given, past, stacked=stacked, **options).seen for stacked in (False, True)
    )
    for tap in range(3):
        assert torch.equal(stacked[..., CHANNELS * tap : CHANNELS * (tap + 1)], seen[:, tap : tap + 4])


@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-8])
def test_the_norm_of_a_picture_in_the_dark(size):
    """On both sides of what is added to the squares' mean."""
    given = plain.Pending(size * rand(1, 2, ROWS, COLUMNS, CHANNELS))
    options = {"front": 2, "last": False, "active": True}
    expected = channels_last(ltx_layers.active(channels_first(given.x)))
    made = plain.clip_frames(given, None, **options).seen
    assert relative(made[:, 2:], expected) < 1e-6
    _, fast = pair("clip_frames")
    assert relative(fast.clip_frames(given, None, **options).seen, made) < 1e-6


def test_pairs_are_a_convolution_over_frames():
    """Four products of sums and differences give both frames of every pair."""
    given, past = pending(3), rand(2, 2, ROWS, COLUMNS, CHANNELS)
    options = {"front": 1, "last": True, "active": True, "reflect": True}
    weight = rand(5, CHANNELS, 3)
    seen, four = (plain.clip_frames(given, past, paired=paired, **options).seen for paired in (False, True))
    expected = sum(seen[:, tap : tap + 4] @ weight[..., tap].T for tap in range(3))
    taps = paired_taps(*weight.unbind(-1))
    products = tuple(part @ tap.T for part, tap in zip(four, taps, strict=True))
    assert relative(plain.clip_sum(plain.Pending(products)), expected) < 1e-6


@pytest.mark.parametrize("given", [pending(3), pending(2, (2, 2, 2), old=1)], ids=["video", "enlarged"])
def test_triton_of_pairs(given):
    """What they make is what is read, and the other way round; at both ends."""
    _, fast = pair("clip_frames")
    past = rand(2, 2, ROWS, COLUMNS, CHANNELS, seed=4)
    options = {"front": 1, "active": True, "paired": True}
    odd = plain.length_of(given) % 2 == 1
    for kept, last in ((past, odd), (None, not odd)):
        flags = {"last": last, "reflect": kept is None, "want_total": kept is not None}
        _same(*(version.clip_frames(given, kept, **options, **flags) for version in (fast, plain)))
    a, b, c = given.factor
    x = tuple(rand(2, 2, ROWS // b, COLUMNS // c, CHANNELS * a * b * c, seed=part) for part in range(4))
    products = given._replace(x=x, old=None, new=None)
    assert relative(fast.clip_sum(products), plain.clip_sum(products)) < 1e-6
    flags = {"front": 2, "last": False, "active": True, "stacked": True}
    _same(*(version.clip_frames(products, None, **flags) for version in (fast, plain)))


def test_triton_of_a_pair_sees_what_is_kept():
    """A frame counts the same as a new one and, rounded, as an old one."""
    _, fast = pair("clip_frames")
    given, past = plain.Pending(rand(1, 4, 4, 6, 12).half()), rand(1, 2, 4, 6, 12, seed=1).half()
    options = {"front": 1, "last": False, "active": True}
    e, four = (fast.clip_frames(given, past, paired=paired, **options).seen for paired in (False, True))
    for number in range(2):
        e0, e1, e2, e3 = e.float()[:, 2 * number : 2 * number + 4].unbind(1)
        expected = torch.stack((e0 - e2, e1 + e2, e2 - e1, e1 - e3)).half()
        assert torch.equal(four[:, :, number], expected)


def _same(fast, plain):
    for out, truth in zip(fast, plain, strict=True):
        assert (out is None) == (truth is None)
        assert truth is None or (out.shape == truth.shape and relative(out, truth) < 1e-6)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_triton(number):
    """Each case with one end and layout of many, and some with a second."""
    _, fast = pair("clip_frames")
    given, past = CASES[number], rand(2, 2, ROWS, COLUMNS, CHANNELS, seed=4)
    assert relative(fast.clip_sum(given), plain.clip_sum(given)) < 1e-6
    ends = (None, 1, False), (None, 1, True), (None, 2, False), (past, 1, True), (past, 2, False)
    layouts = list(itertools.product((False, True), repeat=4))
    for turn in (number,) if number % 2 else (number, number + 9):
        kept, front, last = ends[turn % len(ends)]
        stacked, reflect, active, want_total = layouts[5 * turn % len(layouts)]
        options = {"front": front, "last": last, "active": active, "stacked": stacked, "reflect": reflect}
        made, truth = (
            version.clip_frames(given, kept, **options, want_total=want_total) for version in (fast, plain)
        )
        _same(made, truth)


def test_triton_of_many_positions():
    """More than one program for a picture, whose channels aren't a power of two."""
    _, fast = pair("clip_frames")
    x = rand(1, 2, 9, 19, 96)
    x[0, 0, 3, 5] = 0
    given = plain.Pending(x)
    options = {"front": 1, "last": False, "active": True, "want_total": True}
    for layout in ({"stacked": True, "reflect": True}, {}):
        _same(*(version.clip_frames(given, None, **options, **layout) for version in (fast, plain)))


def test_triton_reads_any_layout():
    """Latents have their channels first; pieces of a batch have gaps."""
    _, fast = pair("clip_frames")

    def scattered(x):
        return None if x is None else torch.stack((x, -x), dim=-1)[..., 0]

    given, past = pending(2, (1, 2, 2), old=1), rand(2, 2, ROWS, COLUMNS, CHANNELS)
    others = plain.Pending(*map(scattered, given[:4]), *given[4:])
    options = {"front": 1, "last": True, "active": True, "want_total": True, "reflect": True}
    expected = fast.clip_frames(given, past, **options)
    assert all(map(torch.equal, fast.clip_frames(others, scattered(past), **options), expected))
