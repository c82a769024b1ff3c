"""Tiles: where they lie, how they blend, and the VAE on them, against diffusers and against itself."""

from itertools import product

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import Cancelled, InputError, StateError
from comfyui_sana_video.sana_video_core.vae.tiling import TiledCache, TilePlan, Tiling, fade_in, tile_plan
from comfyui_sana_video.sana_video_core.vae.wan_vae import WanVAE
from diffusers import AutoencoderKLWan
from support import wan_twins
from support.wan_twins import TOLERANCE, apart, decoded, loud

SMALL = Tiling(tile=4, overlap=1)
ROWS, COLUMNS = 6, 8  # latents: with SMALL, starts at 0, 3 and 0, 3, 6


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def twins() -> tuple[WanVAE, AutoencoderKLWan]:
    return wan_twins.twins()


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return wan_twins.twins()[0]


def random_pixels(frames: int, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return wan_twins.random_pixels(frames, rows, columns)


def random_latents(length: int, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return wan_twins.random_latents(length, rows, columns)


def tile_in_diffusers(theirs: AutoencoderKLWan, tiling: Tiling) -> None:
    sides = {f"tile_sample_min_{side}": 8 * tiling.tile for side in ("height", "width")}
    strides = {f"tile_sample_stride_{side}": 8 * tiling.stride for side in ("height", "width")}
    theirs.enable_tiling(**sides, **strides)


# --- where tiles lie


def test_480_by_832_has_fifteen_tiles_by_default():
    windows = tile_plan(60, 104, Tiling()).windows
    assert [(w.top, w.left) for w in windows] == [(y, x) for y in (0, 24, 48) for x in (0, 24, 48, 72, 96)]
    assert windows[0] == (0, 0, 32, 32)
    assert windows[-1] == (48, 96, 60, 104)


def test_one_tile_is_enough_up_to_its_size():
    assert tile_plan(32, 32, Tiling()).windows == ((0, 0, 32, 32),)
    assert len(tile_plan(33, 32, Tiling()).windows) == 4
    assert tile_plan(90, 200, None).windows == ((0, 0, 90, 200),)


@pytest.mark.parametrize("tile, overlap", [(0, 0), (8, 8), (8, -1), (4, 9)])
def test_tiles_that_cannot_cover_are_refused(tile, overlap):
    with pytest.raises(InputError, match="overlap"):
        Tiling(tile, overlap)


# --- how they are blended


def test_the_ramp_is_linear_and_starts_at_the_older_tile():
    older, newer = torch.full((1, 6), 1.0), torch.full((1, 6), 3.0)
    assert fade_in(newer, older[:, -4:], axis=-1).tolist() == [[1.0, 1.5, 2.0, 2.5, 3.0, 3.0]]
    assert fade_in(newer.T, older.T[-2:], axis=-2).T.tolist() == [[1.0, 2.0, 3.0, 3.0, 3.0, 3.0]]
    assert newer.unique().item() == 3


@pytest.mark.parametrize("tile, overlap", [(4, 0), (4, 1), (4, 3), (3, 2), (5, 2)])
def test_tiles_cut_from_a_picture_make_that_picture(subtests, tile, overlap):
    for rows, columns, scale in product((1, 4, 5, 7, 10), (3, 5, 9, 12), (1, 2)):
        with subtests.test(rows=rows, columns=columns, scale=scale):
            plan = TilePlan(rows, columns, Tiling(tile, overlap))
            count = rows * columns * scale**2
            picture = torch.arange(count, dtype=torch.float64).view(1, rows * scale, columns * scale)
            tiles = [window.of(picture, scale) for window in plan.windows]
            before = picture.clone()
            assert apart(plan.blend(iter(tiles), scale), picture) < 1e-4
            assert torch.equal(picture, before)


@pytest.mark.parametrize("size", [(60, 104), (33, 40), (40, 26)])
def test_blending_equals_diffusers_in_place_blending(size):
    """Every tile has other noise, so that a wrong order, neighbour or crop shows."""
    plan = tile_plan(*size, Tiling())
    generator = torch.Generator().manual_seed(0)
    tiles = [
        torch.randn(1, 1, 1, w.bottom - w.top, w.right - w.left, generator=generator) for w in plan.windows
    ]
    across = len({w.left for w in plan.windows})
    rows = [[tile.clone() for tile in tiles[i : i + across]] for i in range(0, len(tiles), across)]
    blender = AutoencoderKLWan.__new__(AutoencoderKLWan)
    kept = []
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            if i > 0:
                AutoencoderKLWan.blend_v(blender, rows[i - 1][j], tile, 8)
            if j > 0:
                AutoencoderKLWan.blend_h(blender, row[j - 1], tile, 8)
        kept.append(torch.cat([tile[..., :24, :24] for tile in row], dim=-1))
    assert apart(plan.blend(tiles, scale=1), torch.cat(kept, dim=-2)[..., : size[0], : size[1]]) < 1e-6


# --- the VAE on tiles


@pytest.mark.parametrize(
    "tiling, length, rows, columns",
    [(Tiling(), 1, 34, 40), (SMALL, 3, ROWS, COLUMNS), (Tiling(4, 2), 2, 3, 7)],
)
def test_tiled_equals_diffusers(twins, tiling, length, rows, columns):
    ours, theirs = twins
    tile_in_diffusers(theirs, tiling)
    try:
        latents, pixels = random_latents(length, rows, columns), random_pixels(4 * length - 3, rows, columns)
        assert apart(ours.decode(latents, tiling=tiling), theirs.decode(latents).sample) <= TOLERANCE
        assert apart(ours.encode(pixels, tiling=tiling), theirs.encode(pixels).latent_dist.mean) <= TOLERANCE
    finally:
        theirs.disable_tiling()


def test_only_several_tiles_change_the_result(vae):
    latents, pixels = random_latents(2), random_pixels(5)
    wide = Tiling(tile=COLUMNS, overlap=2)
    assert torch.equal(vae.decode(latents, tiling=wide), vae.decode(latents))
    assert torch.equal(vae.encode(pixels, tiling=wide), vae.encode(pixels))
    assert not torch.equal(vae.decode(latents, tiling=SMALL), vae.decode(latents))
    assert not torch.equal(vae.encode(pixels, tiling=SMALL), vae.encode(pixels))


@pytest.mark.parametrize("tiling", [SMALL, Tiling(5, 2), Tiling(4, 0)])
@pytest.mark.parametrize("cuts", [(4,), (1, 3), (2, 1, 1)])
def test_a_tiled_stream_is_bit_identical_to_a_tiled_decode(vae, tiling, cuts):
    latents = random_latents(4)
    whole = vae.decode(latents, tiling=tiling)
    assert torch.equal(decoded(vae.decode_stream(latents.split(cuts, dim=2), tiling=tiling))[0], whole)

    cache, shown = None, []
    for piece in latents.split(cuts, dim=2):
        frames, cache = decoded(vae.decode_stream([piece], cache=cache, tiling=tiling))
        shown.append(frames)
    assert torch.equal(torch.cat(shown, dim=2), whole)
    assert len(cache.tiles) == len(tile_plan(ROWS, COLUMNS, tiling).windows)


def test_a_tiled_cache_is_a_value_too(vae):
    latents = random_latents(3)
    _, cache = decoded(vae.decode_stream([latents], tiling=SMALL))
    before = [tensor.clone() for tile in cache.tiles for tensor in tile]
    one, _ = decoded(vae.decode_stream([latents[:, :, :1]], cache=cache, tiling=SMALL))
    decoded(vae.decode_stream([latents[:, :, 1:]], cache=cache, tiling=SMALL))
    two, _ = decoded(vae.decode_stream([latents[:, :, :1]], cache=cache, tiling=SMALL))
    assert torch.equal(one, two)
    after = [tensor for tile in cache.tiles for tensor in tile]
    assert all(map(torch.equal, before, after))


def test_a_cache_of_another_tiling_is_refused(vae):
    latents = random_latents(1)
    # the last differs from SMALL only in the number of tiles
    tilings = (None, SMALL, Tiling(5, 1), Tiling(4, 2))
    caches = {tiling: decoded(vae.decode_stream([latents], tiling=tiling))[1] for tiling in tilings}
    assert isinstance(caches[SMALL], TiledCache)
    for made_with, cache in caches.items():
        for asked in caches:
            if asked != made_with:
                with pytest.raises(StateError, match="does not belong"):
                    next(vae.decode_stream([latents], cache=cache, tiling=asked))


def test_a_tiled_cache_of_a_smaller_picture_is_refused(vae):
    """Without overlap the tiles of the smaller one are the first tiles of the larger one."""
    small, large = random_latents(1, 8, 4), random_latents(1, 12, 4)
    _, cache = decoded(vae.decode_stream([small], tiling=Tiling(4, 0)))
    with pytest.raises(StateError, match="3 tiles"):
        next(vae.decode_stream([large], cache=cache, tiling=Tiling(4, 0)))


def test_pixels_are_clamped_after_the_blend(vae):
    """A pixel in the overlap is the clamped mixture, not the mixture of clamped pixels."""
    overdriven, latents = loud(vae), random_latents(1)
    plan = tile_plan(ROWS, COLUMNS, SMALL)
    raw = [overdriven.decode_frame(window.of(latents), None)[0] for window in plan.windows]
    right = plan.blend(raw, 8).clamp(-1, 1)
    assert not torch.equal(right, plan.blend([tile.clamp(-1, 1) for tile in raw], 8))
    assert torch.equal(overdriven.decode(latents, tiling=SMALL), right)
    assert torch.equal(decoded(overdriven.decode_stream([latents], tiling=SMALL))[0], right)


def test_progress_counts_latent_frames_of_all_tiles(vae):
    seen = []
    vae.decode(random_latents(2), tiling=SMALL, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]
    seen.clear()
    vae.encode(random_pixels(5), tiling=SMALL, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]


def test_cancelling_between_tiles_leaves_nothing_behind(vae):
    latents = random_latents(2)
    before = vae.decode(latents, tiling=SMALL)

    def cancel(done: int, total: int) -> None:
        if done == 7:
            raise Cancelled("stopped by the user")

    with pytest.raises(Cancelled):
        vae.decode(latents, tiling=SMALL, on_step=cancel)
    assert torch.equal(vae.decode(latents, tiling=SMALL), before)
