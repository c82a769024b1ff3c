"""Families, and every formula between pixels, latents, tokens and chunks."""

import pytest
from support.pack import Pack

PACK = Pack()
config, errors, shapes = (PACK.core(name) for name in ("config", "errors", "shapes"))
BUCKETS = [
    (448, 896), (480, 832), (528, 768), (560, 720), (624, 624), (672, 592),
    (720, 560), (768, 528), (816, 496), (832, 480), (896, 448),
]  # fmt: skip


@pytest.mark.parametrize("size", BUCKETS, ids=str)
def test_all_buckets_of_480p_work(size):
    family = config.LONGSANA_480P
    grid = family.compression.grid(*size)
    assert grid == (size[0] // 8, size[1] // 8)
    assert family.compression.pixels(grid) == size
    assert grid.tokens(2).area == size[0] * size[1] // 256


# and what the original's inference script takes
LARGE_BUCKETS = [
    (672, 1344), (704, 1280), (736, 1280), (800, 1152), (832, 1088), (960, 960),
    (1024, 896), (1088, 832), (1152, 800), (1248, 736), (1280, 704), (1344, 672),
]  # fmt: skip


@pytest.mark.parametrize("size", LARGE_BUCKETS, ids=str)
def test_all_buckets_of_720p_work(size):
    compression = config.SANA_VIDEO_720P.compression
    grid = compression.grid(*size)
    assert grid == (size[0] // 32, size[1] // 32)
    assert compression.pixels(grid) == size


def test_720p_needs_multiples_of_32():
    compression = config.SANA_VIDEO_720P.compression
    assert compression.grid(704, 1280) == (22, 40)
    assert compression.latent_frames(81) == 11
    with pytest.raises(errors.InputError, match=r"720 pixels; it has to be a multiple of 32. Try 704 or 736"):
        compression.grid(720, 1280)
    assert compression.grid(64, 64) == (2, 2)
    for height in (0, 32, 63):  # its VAE mirrors borders
        with pytest.raises(errors.InputError, match=f"{height} pixels.*multiple of 32, 64 at least. Try 64"):
            compression.grid(height, 64)


@pytest.mark.parametrize(
    "height, words", [(0, "Try 16"), (8, "Try 16"), (-16, "Try 16"), (490, "Try 480 or 496")]
)
def test_impossible_sizes_name_the_nearest(height, words):
    with pytest.raises(errors.InputError, match=words):
        config.LONGSANA_480P.compression.grid(height, 832)


def test_pictures_and_clips_that_nothing_could_hold():
    for family in (config.LONGSANA_480P, config.SANA_VIDEO_720P, config.DEMO):
        grid = family.compression.grid
        for height, width in ((8192, 8192), (4096, 4096), (32, 4128), (10**9, 32), (3072, 3104)):
            with pytest.raises(errors.InputError, match=r"too many.*4096 x 2304.*832 x 480"):
                grid(height, width)
        assert grid(2304, 4096)
        assert grid(4096, 2304)
    compression = config.SANA_VIDEO_480P.compression
    compression.check_clip(compression.grid(2304, 4096), 113)
    compression.check_clip(compression.grid(480, 832), 1024, 2)
    with pytest.raises(errors.InputError, match="16 x 8185 frames of 832 x 480 are"):
        compression.check_clip(compression.grid(480, 832), compression.latent_frames(8185), 16)


def test_frames_and_latent_frames():
    compression = config.LONGSANA_480P.compression
    assert [compression.latent_frames(f) for f in (1, 5, 41, 81, 961)] == [1, 2, 11, 21, 241]
    assert [compression.frames(n) for n in (0, 1, 2, 11, 21, 241)] == [0, 1, 5, 41, 81, 961]
    with pytest.raises(errors.InputError, match=r"4n \+ 1. Try 77 or 81"):
        compression.latent_frames(80)
    with pytest.raises(errors.InputError, match="Try 1"):
        compression.latent_frames(0)


def test_original_plan_of_a_known_length():
    rule = shapes.ChunkRule()
    plans = {21: (11, 10), 41: (11, 10, 10, 10), 7: (7,), 10: (10,), 19: (19,), 20: (10, 10), 1: (1,)}
    assert {n: rule.plan(n) for n in plans} == plans
    assert rule.plan(241) == (11,) + (10,) * 23
    with pytest.raises(errors.InputError):
        rule.plan(0)


def test_plan_of_an_open_stream():
    rule = shapes.ChunkRule()
    assert rule.following(0, 3) == (11, 10, 10)
    assert rule.following(1, 2) == (10, 10)
    assert config.LONGSANA_480P.compression.frames(sum(rule.following(0, 24))) == 961


def test_published_sizes():
    for family in (config.SANA_VIDEO_480P, config.LONGSANA_480P, config.SANA_VIDEO_720P):
        assert (family.config.heads, family.config.rotary_split) == (20, (40, 36, 36))
    assert len(set(config.DEMO.config.rotary_split)) > 1
    assert config.DEMO.config.heads > 1
    assert config.DEMO.config.depth > 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"head_dim": 100}, "whole number of heads"),
        ({"depth": 0}, "at least 1"),
        ({"head_dim": 5}, "rotary"),
    ],
)
def test_impossible_sizes_of_a_network(change, words):
    values = {name: getattr(config.LONGSANA_480P.config, name) for name in config.TransformerConfig.__slots__}
    with pytest.raises(errors.InputError, match=words):
        config.TransformerConfig(**{**values, **change})


def test_an_unknown_family_lists_the_known_ones():
    with pytest.raises(errors.InputError, match="longsana_480p"):
        config.family_named("wan")
