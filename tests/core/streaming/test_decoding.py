"""Histories and clips to frames: pieces equal the whole, scenes start afresh, callers can watch and stop."""

from dataclasses import replace

import pytest
import torch
from comfyui_sana_video.sana_video_core.config import LTX_2, WAN_2_1
from comfyui_sana_video.sana_video_core.vae.statistics import to_vae_space
from support.checks_stream import begin, prompt, run
from support.pack import Pack, same

PACK = Pack()
decoding, errors, callbacks, wan_vae = (
    PACK.core(name) for name in ("streaming.decoding", "errors", "callbacks", "vae.wan_vae")
)


@pytest.fixture(scope="module")
def vae():
    return PACK.module("demo.model_set").seeded(wan_vae.WanVAE(wan_vae.VAEConfig(base_width=8)), 0)


@pytest.fixture(scope="module")
def state():
    """Two scenes: chunks of 3 and 2 latent frames, then one of 2."""
    model = PACK.tiny_model(depth=1)
    first = run(PACK, model, begin(PACK, model), "a", plan=(3, 2), steps=1)
    return run(PACK, model, first, "b", plan=(2,), steps=1, on_prompt_change="cut")


def _frames(vae, state, **options):
    return torch.cat(list(decoding.decode_history(vae, state, **options)), dim=2)


def test_each_scene_is_one_decode(vae, state):
    scenes = [torch.cat([c.latents for c in state.history if c.scene == scene], 2) for scene in (0, 1)]
    expected = torch.cat([vae.decode(to_vae_space(scene, WAN_2_1)) for scene in scenes], dim=2)
    frames = _frames(vae, state)
    assert same(frames, expected)
    assert frames.shape[2] == state.frames == 17 + 5


@pytest.mark.parametrize("from_chunk, first_frame", [(0, 0), (1, 9), (2, 17)])
def test_a_continued_chunk_gives_its_frames_of_the_whole(vae, state, from_chunk, first_frame):
    assert same(_frames(vae, state, from_chunk=from_chunk), _frames(vae, state)[:, :, first_frame:])


@pytest.fixture(scope="module")
def long(vae):
    """A scene of 3 + 20 + 18 + 1 + 21 latent frames and one of 2, in small pictures; and its frames."""
    model = PACK.tiny_model(depth=1)
    state = run(PACK, model, begin(PACK, model), "a", plan=(3, 20, 18, 1, 21), steps=1)
    state = run(PACK, model, state, "b", plan=(2,), steps=1, on_prompt_change="cut")
    history = tuple(replace(chunk, latents=chunk.latents[..., :2, :1].clone()) for chunk in state.history)
    state = replace(state, history=history)
    return state, _frames(vae, state)


@pytest.mark.parametrize("from_chunk, begun", [(1, 0), (2, 0), (3, 1), (4, 1), (5, 5)])
def test_decoding_begins_as_far_back_as_the_decoder_looks(vae, long, from_chunk, begun):
    """That is 38 latent frames."""
    state, whole = long
    seen = []
    work = callbacks.Callbacks(progress=lambda done: seen.append(done.chunk))
    shown = _frames(vae, state, from_chunk=from_chunk, callbacks=work)
    assert seen[0] == begun + 1
    assert same(shown, whole[:, :, whole.shape[2] - state.frames_from(from_chunk) :])


def test_primed_chunks_are_shown(vae):
    model = PACK.tiny_model(depth=1)
    image = torch.randn(1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    state = PACK.core("streaming.stream").prime(model, begin(PACK, model), prompt(PACK, "a"), image)
    assert same(_frames(vae, state), vae.decode(to_vae_space(image, WAN_2_1)))


def test_tiles(vae, state):
    tiling = PACK.core("vae.tiling").Tiling(tile=4, overlap=1)
    tiled = _frames(vae, state, tiling=tiling)
    assert tiled.shape == _frames(vae, state).shape
    assert same(tiled[:, :, 9:], _frames(vae, state, from_chunk=1, tiling=tiling))


def test_progress_and_interrupt(vae, state):
    reports = []
    _frames(vae, state, callbacks=callbacks.Callbacks(progress=reports.append))
    assert [(n.chunk, n.step) for n in reports] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2)]
    frames = decoding.decode_history(
        vae, state, callbacks=callbacks.Callbacks(cancelled=lambda: len(reports) > 9, progress=reports.append)
    )
    assert [next(frames).shape[2] for _ in range(3)] == [1, 4, 4]
    with pytest.raises(errors.Cancelled, match="chunk 2 of 3"):
        next(frames)


def test_nan_names_the_chunk(vae, state, monkeypatch):
    monkeypatch.setattr(
        type(vae.decoder), "forward", lambda self, x, cache: (x.new_full((1, 3, 1, 32, 48), float("nan")), ())
    )
    with pytest.raises(errors.ChunkError, match="chunk 1 of 3"):
        _frames(vae, state)


# --- decoders of a host, which may take several latent frames at a time


class Grouping:
    """A decoder without weights that takes latent frames in groups, as ComfyUI's does.

    A frame holds its number in the scene and its latent frame, so that a wrong one cannot look right.
    """

    def __init__(self, *groups: int) -> None:
        self.groups, self.taken = groups, 0

    def decode_stream(self, pieces, *, tiling=None):
        singles = [single for piece in pieces for single in piece.split(1, dim=2)]
        groups, done = list(self.groups), 0
        while done < len(singles):
            size = groups.pop(0) if len(groups) > 1 else groups[0]
            self.taken += 1
            made = [self._frames(single, done + i) for i, single in enumerate(singles[done : done + size])]
            done += size
            yield torch.cat(made, dim=2)

    def _frames(self, latent, place):
        numbers = torch.arange(1 if place == 0 else 4) + max(0, 4 * place - 3)
        frames = latent[:, :3].repeat(1, 1, len(numbers), 1, 1)
        return torch.cat([frames, numbers.view(1, 1, -1, 1, 1).expand_as(frames[:, :1]).float()], dim=1)


def _frames_of(state, decoder, **options):
    return list(decoding.decode_history(decoder, state, device=torch.device("cpu"), **options))


@pytest.mark.parametrize("groups", [(1, 2), (1, 2, 2), (3, 1), (5,), (99,)])
@pytest.mark.parametrize("from_chunk", range(3))
def test_groups_of_latent_frames_give_the_same_frames(state, groups, from_chunk):
    single = torch.cat(_frames_of(state, Grouping(1), from_chunk=from_chunk), dim=2)
    grouped = torch.cat(_frames_of(state, Grouping(*groups), from_chunk=from_chunk), dim=2)
    assert same(grouped, single)
    assert single.shape[2] == state.frames_from(from_chunk)
    first_number = {0: 0, 1: 9, 2: 0}[from_chunk]  # of a frame in its scene
    assert single[0, 3, 0, 0, 0] == first_number


@pytest.mark.parametrize("groups", [(1,), (1, 2), (2, 4), (99,)])
@pytest.mark.parametrize("shown", [{0, 2}, {0, 1}, {1}, {2, 3}, {0, 3}, set(), {0, 1, 2, 3}])
def test_chunks_between_those_that_are_shown_are_dropped(state, groups, shown):
    history = [replace(chunk, scene=0) for chunk in (*state.history, state.history[0])]
    work = {"device": torch.device("cpu"), "total": 4}
    rules = state.identity.rules
    whole, some = (
        list(decoding.decode_chunks(Grouping(*groups), enumerate(history), rules, shown=which, **work))
        for which in (range(4), shown)
    )
    frames = torch.cat(whole, dim=2).split([9, 8, 8, 12], dim=2)
    expected = [frames[number] for number in sorted(shown)]
    assert len(some) == 0 if not shown else same(torch.cat(some, dim=2), torch.cat(expected, dim=2))


def test_all_frames_of_a_chunk_come_before_the_next_is_waited_for(vae, state):
    """However long that is sampled."""
    came = []

    def chunks():
        for number, chunk in enumerate(state.history):
            assert sum(came) == state.frames_from(0) - state.frames_from(number)
            yield number, chunk

    for frames in decoding.decode_chunks(vae, chunks(), state.identity.rules, shown=range(3), total=3):
        came.append(frames.shape[2])
    assert sum(came) == 22


@pytest.mark.parametrize("groups", [(1,), (1, 2), (5,)])
def test_a_scene_before_the_requested_one_is_not_decoded(state, groups):
    decoder = Grouping(*groups)
    _frames_of(state, decoder, from_chunk=2)
    assert decoder.taken == len(list(Grouping(*groups).decode_stream([torch.zeros(1, 3, 2, 1, 1)])))


def test_progress_of_groups_names_the_chunk_of_the_last_frame(state):
    reports = []
    _frames_of(state, Grouping(1, 2), callbacks=callbacks.Callbacks(progress=reports.append))
    expected = [(1, 1, 3), (1, 3, 3), (2, 2, 2), (3, 1, 2), (3, 2, 2)]
    assert [(n.chunk, n.step, n.steps) for n in reports] == expected


def test_an_empty_stream_and_a_missing_chunk_are_refused(vae, state):
    empty = replace(state, history=())
    with pytest.raises(errors.InputError, match="nothing to decode"):
        next(decoding.decode_history(vae, empty))
    for wrong in (-1, 3, 99):
        with pytest.raises(errors.InputError, match=f"chunk {wrong}, but this stream has 3.*Choose 0 to 2"):
            next(decoding.decode_history(vae, state, from_chunk=wrong))


# --- clips


def _latents(frames):
    return torch.randn(1, 16, frames, 4, 6, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_clip_is_one_decode(vae, frames):
    pieces = list(decoding.decode_clip(vae, _latents(frames), WAN_2_1))
    assert same(torch.cat(pieces, dim=2), vae.decode(_latents(frames)))
    assert [piece.shape[2] for piece in pieces] == [1] + [4] * (frames - 1)


@pytest.mark.parametrize("groups", [(1, 2), (5,)])
def test_a_clip_of_groups(groups):
    whole, grouped = (
        torch.cat(list(decoding.decode_clip(Grouping(*sizes), _latents(6), WAN_2_1)), dim=2)
        for sizes in ((1,), groups)
    )
    assert same(whole, grouped)
    assert grouped.shape[2] == 21


def test_a_clip_of_another_stride_ends_where_it_ends():
    class Eight(Grouping):
        def _frames(self, latent, place):
            return latent[:, :3].repeat(1, 1, 1 if place == 0 else 8, 1, 1)

    assert torch.cat(list(decoding.decode_clip(Eight(1), _latents(3), LTX_2)), dim=2).shape[2] == 17


def test_a_clip_can_be_watched_and_stopped(vae):
    reports = []
    watched = callbacks.Callbacks(cancelled=lambda: len(reports) > 1, progress=reports.append)
    frames = decoding.decode_clip(vae, _latents(4), WAN_2_1, callbacks=watched)
    assert [next(frames).shape[2] for _ in range(2)] == [1, 4]
    with pytest.raises(errors.Cancelled, match="after 5 frames"):
        next(frames)
    assert [(n.chunk, n.chunks, n.step, n.steps) for n in reports] == [(1, 1, 1, 4), (1, 1, 2, 4)]


# --- which chunks a latent holds


def _end(state, chunks):
    return torch.cat([to_vae_space(chunk.latents, WAN_2_1) for chunk in state.history[-chunks:]], dim=2)


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_the_end_of_a_history_is_found(state, chunks):
    assert decoding.first_chunk_of(state, _end(state, chunks)) == 3 - chunks


def test_what_is_not_the_end_of_the_history_is_refused(state):
    end = _end(state, 1)
    changed = end.clone()
    changed[0, 0, 0, 0, 0] += 1e-4
    beginning = replace(state, history=state.history[:-1])
    for wrong in (
        changed,
        end[:, :, :1],
        _end(state, 3)[:, :, 1:],
        end[..., :4],
        torch.cat([end, end], 0),
        _latents(9),
    ):
        with pytest.raises(errors.InputError, match="one and the same sampler"):
            decoding.first_chunk_of(state, wrong)
    with pytest.raises(errors.InputError, match="2 chunks"):
        decoding.first_chunk_of(beginning, end)
    with pytest.raises(errors.InputError, match="0 chunks"):
        decoding.first_chunk_of(replace(state, history=()), end)
