"""What is seen of a stream while it is made: which pictures, at what pace, and what stays."""

import threading

import pytest
import torch
from comfyui_sana_video.sana_video_core.callbacks import Progress
from comfyui_sana_video.sana_video_core.config import DEMO
from comfyui_sana_video.sana_video_core.streaming import live
from comfyui_sana_video.sana_video_core.streaming.live import Drafts, FilmPreview, StreamPreview
from support.calibration import until


@pytest.fixture
def reels(monkeypatch):
    """What players were given: (pictures, seconds, again)."""
    given = []
    play = live.Player.play

    def watched(player, pictures, seconds, *, again=False):
        given.append((list(pictures), seconds, again))
        play(player, pictures, seconds, again=again)

    monkeypatch.setattr(live.Player, "play", watched)
    return given


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "sana-video player"]


def _pictures(latents):
    """The numbers of latent frames stand for pictures."""
    return [int(number) for number in latents[0, 0, :, 0, 0]]


def _latents(first, count=10):
    return torch.arange(first, first + count)[None, None, :, None, None].float()


def _stream(shown, times, chunks=4, steps=2, pictures=_pictures):
    """A preview whose chunks are ready at `times`, and how one tells it of a step: (chunk, step, frame)."""
    clock = iter([times[0], *(time for time in times[1:] for _ in "tt")])
    preview = StreamPreview(shown.append, pictures, DEMO, now=lambda: next(clock))
    return preview, lambda chunk, step, first: preview.progress(
        Progress(chunk, chunks, step, steps, _latents(first))
    )


def test_a_chunk_plays_in_a_loop_while_the_next_one_is_sampled(reels):
    shown = []
    preview, tell = _stream(shown, [0, 100, 101, 200])
    with preview:
        tell(1, 1, 0)
        assert reels == [([9], 0, False)]  # the newest estimate of the newest frame
        tell(1, 2, 0)
        assert reels[1] == ([*range(10)], 0.25, True)
        tell(2, 1, 10)  # what the next chunk's steps are like isn't shown
        tell(2, 2, 10)
        assert reels[2] == ([*range(10, 20)], 0.1, True)  # as fast as there is time
        tell(3, 2, 20)
        tell(4, 1, 30)
        assert len(reels) == 4
        tell(4, 2, 30)
        assert reels[4] == ([39], 0, False)
    assert shown[-1] == 39  # it stays
    assert not _threads()


def test_a_scenes_first_latent_frame_is_left_out(reels):
    """It is one frame, not four, and its colours are another kind's."""
    preview, _ = _stream([], [0, 100])
    with preview:
        preview.progress(Progress(1, 4, 2, 2, _latents(0, 11)))
    assert reels == [([*range(1, 11)], 0.25, True)]


def test_hurry_has_a_limit(reels):
    preview, tell = _stream([], [0, 0.01])
    with preview:
        tell(1, 2, 0)
    assert reels == [([*range(10)], 1 / live.MOST, True)]


def test_a_run_that_is_stopped_leaves_the_newest_frame(reels):
    shown = []
    preview, tell = _stream(shown, [0, 100])

    def work():
        with preview:
            tell(1, 2, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert shown[-1] == 9
    assert not _threads()


def test_what_has_no_picture_is_not_shown(reels):
    preview, tell = _stream([], [0, 1, 2], pictures=lambda latents: [])
    with preview:
        for chunk in (1, 2):
            tell(chunk, 1, 0)
            tell(chunk, 2, 0)
        preview.progress(Progress(3, 4, 1, 2, None))
        preview.progress(Progress(0, 4, 1, 2, _latents(0)))  # recache: a chunk that was seen before
        assert not _threads()
    assert reels == []


def test_what_cannot_be_drawn_is_not_seen_and_costs_nothing_more(reels, caplog):
    """Such as a draft without room: the film goes on."""
    tried = []

    def full(latents):
        tried.append(latents)
        raise torch.OutOfMemoryError("no room")

    preview, tell = _stream([], [0, 1, 2, 3], pictures=full)
    with preview:
        for chunk in (1, 2, 3):
            tell(chunk, 1, 0)
            tell(chunk, 2, 0)
    assert len(tried) == 1
    assert reels == []
    assert caplog.messages == ["The moving preview stopped (OutOfMemoryError: no room)."]


def _drafts(cost):
    """Drafts that cost so much, and a function that lets time go by."""
    time = [0.0]

    def decode(latents):
        time[0] += cost
        return _pictures(latents)[0]

    def later(seconds):
        time[0] += seconds

    return Drafts(decode, now=lambda: time[0]), later


@pytest.mark.parametrize(
    "seconds, frames", [(100, [*range(10)]), (10.5, [1, 3, 5, 7, 9]), (4.5, [4, 9]), (2.1, [9]), (1, [])]
)
def test_drafts_cost_a_small_share_of_a_chunk(seconds, frames):
    drafts, later = _drafts(0.08)
    assert drafts(_latents(9, 1)) == [9]  # an estimate shows how much one costs
    later(seconds - 0.08)
    for _ in range(2):
        assert drafts(_latents(0)) == frames
        assert len(frames) * 0.08 <= live.SHARE * seconds
        later(seconds - 0.08 * len(frames))


def test_estimates_are_drawn_where_a_draft_is_cheap():
    drafts, later = _drafts(0.08)
    assert drafts(_latents(9, 1)) == [9]
    later(0.5)
    assert drafts(_latents(9, 1)) == []
    later(0.5)
    assert drafts(_latents(9, 1)) == [9]


def _film(shown, times, fps=16.0, most=500):
    clock = iter([times[0], *(time for time in times[1:] for _ in "tt")])
    return FilmPreview(
        lambda picture: shown.append(picture.getpixel((0, 0))), fps, most, now=lambda: next(clock)
    )


def _frames(*levels):
    return torch.tensor(levels).to(torch.uint8)[:, None, None, None].repeat(1, 4, 6, 3)


def test_frames_are_shown_as_they_come_and_the_last_one_stays(reels):
    shown = []
    with _film(shown, [0, 10, 18, 18.001]) as film:
        film.frames(_frames(1.0))
        until(lambda: shown, 5)
        film.frames(_frames(2.0, 3.0, 4.0, 5.0))  # took 8 s: 2 s each
        film.frames(_frames(6.0, 7.0, 8.0, 9.0))  # no time at all: at the film's pace
    assert [(len(pictures), seconds, again) for pictures, seconds, again in reels] == [
        (1, 10, False),
        (4, 2, False),
        (4, 1 / 16, False),
    ]
    assert shown[0] == (1, 1, 1)
    assert shown[-1] == (9, 9, 9)
    assert shown == sorted(shown)
    assert not _threads()


def test_a_fast_film_is_shown_no_faster_than_the_eye_needs(reels):
    with _film([], [0, 0.001], fps=120.0) as film:
        film.frames(_frames(1.0, 2.0))
    assert reels[0][1] == 1 / live.MOST


def test_frames_are_scaled_down(reels):
    sizes = []
    with FilmPreview(lambda picture: sizes.append(picture.size), 16.0, 3) as film:
        film.frames(_frames(1.0))
    assert set(sizes) == {(3, 2)}
