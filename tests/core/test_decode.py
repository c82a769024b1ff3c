"""A story to frames: pieces equal the whole, scenes begin afresh, and a host can watch and stop."""

import pytest
import torch
from checks_stream import begin, prompt, run
from pack import Pack, same

PACK = Pack()
decode, errors, host, wan = (PACK.core(name) for name in ("decode", "errors", "host", "wan_vae"))


@pytest.fixture(scope="module")
def vae():
    return PACK.core("demo_set").seeded(wan.WanVAE(wan.VAEConfig(base_width=8)), 0)


@pytest.fixture(scope="module")
def state():
    """Two scenes: chunks of 3 and 2 latent frames, then one of 2."""
    model = PACK.tiny_model(depth=1)
    first = run(PACK, model, begin(PACK, model), "a", plan=(3, 2), steps=1)
    return run(PACK, model, first, "b", plan=(2,), steps=1, on_prompt_change="cut")


def _frames(vae, state, **options):
    return torch.cat(list(decode.decode_story(vae, state, **options)), dim=2)


def test_each_scene_is_one_decode(vae, state):
    scenes = [torch.cat([c.latents for c in state.story if c.scene == scene], 2) for scene in (0, 1)]
    expected = torch.cat([vae.decode(wan.to_vae_space(scene)) for scene in scenes], dim=2)
    frames = _frames(vae, state)
    assert same(frames, expected)
    assert frames.shape[2] == state.frames == 17 + 5


@pytest.mark.parametrize("from_chunk, first_frame", [(0, 0), (1, 9), (2, 17)])
def test_a_continued_chunk_gives_its_frames_of_the_whole(vae, state, from_chunk, first_frame):
    assert same(_frames(vae, state, from_chunk=from_chunk), _frames(vae, state)[:, :, first_frame:])


def test_primed_chunks_are_shown(vae):
    model = PACK.tiny_model(depth=1)
    image = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    state = PACK.core("stream").prime(model, begin(PACK, model), prompt(PACK, "a"), image)
    assert same(_frames(vae, state), vae.decode(wan.to_vae_space(image)))


def test_tiles(vae, state):
    tiling = PACK.core("vae_tiling").Tiling(tile=4, overlap=1)
    tiled = _frames(vae, state, tiling=tiling)
    assert tiled.shape == _frames(vae, state).shape
    assert same(tiled[:, :, 9:], _frames(vae, state, from_chunk=1, tiling=tiling))


def test_progress_and_interrupt(vae, state):
    news = []
    _frames(vae, state, host=host.Host(progress=news.append))
    assert [(n.chunk, n.step) for n in news] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2)]
    frames = decode.decode_story(
        vae, state, host=host.Host(cancelled=lambda: len(news) > 9, progress=news.append)
    )
    assert [next(frames).shape[2] for _ in range(3)] == [1, 4, 4]
    with pytest.raises(errors.Cancelled, match="chunk 2 of 3"):
        next(frames)


def test_values_that_are_no_numbers_name_the_chunk(vae, state, monkeypatch):
    monkeypatch.setattr(
        type(vae.decoder), "forward", lambda self, x, cache: (x.new_full((1, 3, 1, 32, 48), float("nan")), ())
    )
    with pytest.raises(errors.ChunkError, match="chunk 1 of 3"):
        _frames(vae, state)
