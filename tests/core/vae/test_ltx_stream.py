"""LTX-2's VAE over long clips and in tiles: streamed as whole, how far it looks, what it holds."""

import pytest
import torch
from comfyui_sana_video.sana_video_core.callbacks import Callbacks
from comfyui_sana_video.sana_video_core.config import SANA_VIDEO_720P
from comfyui_sana_video.sana_video_core.errors import Cancelled, InputError
from comfyui_sana_video.sana_video_core.streaming.decoding import decode_chunks, decode_clip
from comfyui_sana_video.sana_video_core.streaming.state import Chunk
from comfyui_sana_video.sana_video_core.vae.ltx_stream import Stage, depth_first, with_end
from comfyui_sana_video.sana_video_core.vae.ltx_vae import LtxVAE
from comfyui_sana_video.sana_video_core.vae.reach import decoder_reach
from comfyui_sana_video.sana_video_core.vae.tiling import Tiling
from support.ltx_twins import (
    VERSIONS,
    apart,
    decoded_by_theirs,
    encoded_by_theirs,
    latents,
    ours,
    pixels,
    sizes,
    theirs,
)

LENGTH = 31  # latent frames: more than the reach to both sides of one of them


@pytest.fixture(autouse=True, scope="module")
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("version, causal", [("ltx2", False), ("ltx23", False), ("ltx23", True)])
def test_a_long_clip_streamed_equals_diffusers_whole(version, causal):
    vae, z = ours(version, torch.float64, causal=causal), latents(LENGTH, rows=2, columns=2)
    frames = list(vae.decode_stream(z.split((1, 3, 9, LENGTH - 13), dim=2)))
    assert apart(torch.cat(frames, dim=2), decoded_by_theirs(version, z, causal=causal)) < 1e-12
    assert [part.shape[2] for part in frames] == [1] + [8] * (LENGTH - 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_long_clip_encoded_equals_diffusers_whole(version):
    x = pixels(8 * 5 + 1, rows=2, columns=2)
    assert apart(ours(version, torch.float64).encode(x), encoded_by_theirs(version, x)) < 1e-12


REACH = [("ltx2", False, 18), ("ltx23", False, 14), ("ltx2", True, 36), ("ltx23", True, 27)]


@pytest.mark.parametrize(
    "version, causal", [(version, causal) for version in VERSIONS for causal in (False, True)]
)
def test_what_a_latent_frame_changes_lies_within_the_reach(version, causal):
    """NaN goes wherever a value goes."""
    vae = ours(version, causal=causal)
    reach = decoder_reach(vae)
    place = 1 if causal else reach + 1
    z = latents(place + reach + 2, rows=2, columns=2).float()
    z[:, :, place] = torch.nan
    # without the clamp, which keeps NaN, too
    wrong = vae.decode(z).isnan().any(dim=(0, 1, 3, 4)).nonzero().flatten()
    first, last = (int(frame + 7) // 8 for frame in (wrong[0], wrong[-1]))
    assert last == place + reach
    assert first == (place if causal else place - reach)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_decoder_that_begins_at_its_reach_shows_the_same(version):
    vae = ours(version, torch.float64)
    reach = decoder_reach(vae)
    z = latents(reach + 4, rows=2, columns=2)
    whole = vae.decode(z)[:, :, -8:]
    assert apart(vae.decode(z[:, :, 3:])[:, :, -8:], whole) < 1e-12
    assert apart(vae.decode(z[:, :, 4:])[:, :, -8:], whole) > 1e-12


def test_pieces_are_taken_one_ahead_and_once():
    """A symmetric decoder has to know the end; a causal one gives frames at once."""
    taken = []

    def pieces():
        for number in range(4):
            taken.append(number)
            yield latents(4).float()[:, :, number : number + 1]

    causal = ours("ltx2", causal=True).decode_stream(pieces())
    for number in range(4):
        next(causal)
        assert taken == list(range(number + 1))
    taken.clear()
    assert sum(part.shape[2] for part in ours("ltx2").decode_stream(pieces())) == 25
    assert taken == [0, 1, 2, 3]
    assert list(ours("ltx2").decode_stream([])) == []


def test_latents_that_change_their_size_are_refused():
    stream = ours("ltx2").decode_stream([latents(1).float(), latents(1, rows=4).float()])
    with pytest.raises(InputError, match=r"\[1, 2, 3\] was followed by \[1, 4, 3\]"):
        list(stream)


def test_no_input_is_written_to_and_frames_are_values():
    vae, z = ours("ltx2"), latents(6).float()
    before, frames = z.clone(), []
    for part in vae.decode_stream(z):
        frames.append((part, part.clone()))
    assert torch.equal(z, before)
    assert all(torch.equal(part, copy) for part, copy in frames)


def test_what_waits_does_not_grow_with_the_clip():
    """Nothing that a layer makes or keeps is larger than its share of one latent frame, and two frames."""
    vae = ours("ltx2")
    most = {}

    def watched(place, stage):
        def run(x, past, last):
            y, kept = stage.run(x, past, last)
            frames = [t.shape[2] for t in _tensors(kept)] + [x.shape[2]]
            most[place] = max(most.get(place, 0), *(frame / stage.frames for frame in frames))
            return y, kept

        return Stage(run, stage.frames)

    plain = list(vae.decoder.stages())
    vae._stages = lambda network, x: [watched(place, stage) for place, stage in enumerate(plain)]
    list(vae.decode_stream(latents(30, rows=2, columns=2).float()))
    assert len(most) == len(plain)
    assert max(most.values()) <= 2


def _tensors(kept):
    if isinstance(kept, torch.Tensor):
        return [kept]
    return [t for part in kept or () for t in _tensors(part)] if isinstance(kept, tuple) else []


def test_the_end_goes_with_the_last_part_only():
    seen = []

    def late(x, past, last):  # gives nothing before the end, then all
        kept = x if past is None else torch.cat((past, x), dim=2)
        return (kept, None) if last else (None, kept)

    def follower(x, past, last):
        seen.append((x.shape[2], last))
        return x, None

    pieces = with_end(torch.zeros(1, 1, 1, 1, 1) for _ in range(5))
    made = list(depth_first([Stage(late, 2), Stage(follower, 2)], pieces))
    assert seen == [(2, False), (2, False), (1, True)]
    assert len(made) == 3


# --- in tiles


@pytest.mark.parametrize("version", VERSIONS)
def test_tiles_equal_diffusers_tiles(version):
    """Of 16 latents, 14 apart: the published ones."""
    vae, twin = ours(version, torch.float64), theirs(version, False)
    z, x = latents(1, rows=2, columns=18), pixels(1, rows=2, columns=18)
    twin.enable_tiling()
    try:
        expected, encoded = decoded_by_theirs(version, z), encoded_by_theirs(version, x)
    finally:
        twin.disable_tiling()
    tiling = Tiling(16, 2)
    assert apart(vae.decode(z, tiling=tiling), expected) < 1e-6
    assert apart(torch.cat([*vae.decode_stream(z, tiling=tiling)], dim=2), expected) < 1e-6
    assert apart(vae.encode(x, tiling=tiling), encoded) < 1e-6
    assert apart(vae.decode(z), expected) > 1e-3


@pytest.mark.parametrize("columns", [4, 5, 6, 7])
@pytest.mark.parametrize("tile, overlap", [(3, 1), (3, 0), (2, 0)])
def test_no_tile_is_too_small_for_mirrored_borders(tile, overlap, columns):
    vae, z = ours("ltx2"), latents(1, rows=5, columns=columns).float()
    frames = vae.decode(z, tiling=Tiling(tile, overlap))
    assert frames.shape == (1, 3, 1, 160, 32 * columns)
    assert frames.isfinite().all()


class Counting(LtxVAE):
    """A decoder whose frames say from where they are: the latents' own values, repeated."""

    def _stages(self, network, x):
        def grown(x, past, last):
            frames = x.repeat_interleave(8, 2)[:, :3].repeat_interleave(32, 3).repeat_interleave(32, 4)
            return frames[:, :, 7 if past is None else 0 :], True

        return [Stage(grown, 8)]

    def _as_made(self, latents):
        return latents


def test_tiles_are_aligned_in_time_and_space():
    """Every value of a latent comes out at its own place, and the first latent frame as one frame."""
    vae = Counting(sizes("ltx2"), dtype=torch.float64)
    z = torch.arange(3 * 5 * 9, dtype=torch.float64).view(1, 1, 3, 5, 9).repeat(1, 4, 1, 1, 1) / (3 * 5 * 9)
    expected = z.repeat_interleave(8, 2)[:, :3, 7:].repeat_interleave(32, 3).repeat_interleave(32, 4)
    for tiling in (Tiling(4, 1), Tiling(3, 0), Tiling(8, 2)):
        assert apart(vae.decode(z, tiling=tiling), expected) < 1e-6
        assert apart(torch.cat([*vae.decode_stream(z, tiling=tiling)], dim=2), expected) < 1e-6


# --- by those who decode


def test_progress_moves_and_can_be_cancelled_before_the_first_frame():
    vae, z, steps, asked = ours("ltx2"), latents(9, rows=2, columns=2).float(), [], []

    def cancelled():
        asked.append(len(steps))
        return len(asked) == 5

    with pytest.raises(Cancelled, match="after 0 frames were decoded"):
        list(decode_clip(vae, z, vae.spec, callbacks=Callbacks(cancelled, lambda news: steps.append(news))))
    assert steps
    steps.clear()
    frames = []
    for part in decode_clip(vae, z, vae.spec, callbacks=Callbacks(progress=lambda news: steps.append(news))):
        assert frames or len(steps) >= 4  # before anything is seen
        frames.append(part)
    assert [(news.step, news.steps) for news in steps] == [(step, 9) for step in range(1, 10)]
    assert torch.equal(torch.cat(frames, dim=2), vae.decode(z))


def test_chunks_of_a_scene_are_decoded_as_one_clip():
    """The first frames need all chunks of the scene, and the next scene begins anew."""
    vae, z = ours("ltx2", latent_channels=128), latents(7, rows=2, columns=2, channels=128).float()
    parts = [*zip(z.split((3, 2, 2), dim=2), (0, 0, 1), strict=True)]
    chunks = [Chunk(latents=part, prompt="", digest="", scene=scene, seed=0) for part, scene in parts]
    frames = decode_chunks(vae, enumerate(chunks), SANA_VIDEO_720P, shown={1, 2}, total=3)
    whole = vae.decode(z[:, :, :5])
    expected = torch.cat((whole[:, :, 17:], vae.decode(z[:, :, 5:])), dim=2)
    assert torch.equal(torch.cat([*frames], dim=2), expected)
