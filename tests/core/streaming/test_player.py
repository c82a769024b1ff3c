"""A player shows pictures in order and at their pace, and ends with the work, however that ends."""

import threading
import time

import pytest
from comfyui_sana_video.sana_video_core.streaming.player import Player
from support.calibration import limit


class Clock:
    """Time passes only while somebody waits for it."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def wait(self, condition, seconds):
        if seconds is None:
            condition.wait()
        else:
            self.time += seconds


class Screen:
    """Notes what is shown and when. `on(picture)` runs in the player's thread, after the picture."""

    def __init__(self, on=lambda picture: None):
        self.clock, self.seen, self._on = Clock(), [], on
        self.player = Player(self.show, now=self.clock.now, wait=self.clock.wait)
        self._done, self._last = threading.Event(), None

    def show(self, picture):
        if not self._done.is_set():
            self.seen.append((picture, self.clock.time))
            self._on(picture)
            if picture == self._last or len(self.seen) == self._last:
                self._done.set()

    def until(self, last, *reel, **options):
        """Play a reel until the picture `last`, or that many, were shown."""
        self._last = last
        with self.player:
            self.player.play(*reel, **options)
            assert self._done.wait(limit(5)), self.seen
        return self.seen


def test_pictures_come_in_order_and_at_the_films_pace():
    assert Screen().until("e", "abcde", 0.25) == [(name, 0.25 * i) for i, name in enumerate("abcde")]


def test_a_loop_goes_on():
    seen = Screen().until(8, "abc", 0.25, again=True)
    assert seen == [(name, 0.25 * i) for i, name in enumerate("abcabcab")]


def test_new_pictures_take_the_place_of_what_is_left_when_their_turn_comes():
    screen = Screen(lambda picture: picture == "b" and screen.player.play("xyz", 0.5))
    assert screen.until("z", "abcde", 0.25) == [("a", 0), ("b", 0.25), ("x", 0.75), ("y", 1.25), ("z", 1.75)]


def test_after_a_pause_the_pace_is_the_same():
    def on(picture):
        if picture == "b":
            screen.clock.time = 100
            screen.player.play("cde", 0.25)

    screen = Screen(on)
    assert screen.until("e", "ab", 0.25)[2:] == [("c", 100), ("d", 100.25), ("e", 100.5)]


def test_a_slow_screen_is_as_fast_as_it_can_be():
    screen = Screen(lambda picture: setattr(screen.clock, "time", screen.clock.time + 1))
    assert [when for _, when in screen.until("d", "abcd", 0.25)] == [0, 1, 2, 3]


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "sana-video player"]


def test_the_thread_begins_with_the_first_picture_and_ends_with_the_block():
    shown = threading.Event()
    with Player(lambda picture: shown.set()) as player:
        assert not _threads()
        player.play("ab", 1000)
        assert shown.wait(limit(5))
        began = time.monotonic()
    assert time.monotonic() - began < limit(1)  # it doesn't wait for the next picture
    assert not _threads()
    player.play("c", 0)  # too late
    assert not _threads()


def test_the_last_picture_is_shown_before_the_end():
    for before in ("", "abc"):
        shown = []
        player = Player(shown.append)
        if before:
            player.play(before, 1000)
        player.close("z")
        assert shown[-1:] == (["z"] if before else [])  # nothing was seen yet: nothing begins
        player.close("late")
        assert "late" not in shown
    assert not _threads()


def test_an_error_of_the_work_ends_the_thread():
    def work():
        with Player(lambda picture: None) as player:
            player.play("ab", 1000, again=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not _threads()


def test_an_error_of_the_screen_ends_the_pictures_and_not_the_work(caplog):
    def broken(picture):
        raise OSError("no screen")

    with Player(broken) as player:
        player.play("ab", 0)
        player._thread.join(limit(5))
        assert not _threads()
        player.play("c", 0)
    assert caplog.messages == ["The moving preview stopped (OSError: no screen)."]


def test_an_error_in_drawing_ends_the_pictures_and_not_the_work(caplog):
    shown = threading.Event()
    with Player(lambda picture: shown.set()) as player:
        player.play("ab", 1000, again=True)
        assert shown.wait(limit(5))
        with player.drawing():
            raise RuntimeError("no room")
        player._thread.join(limit(5))
        assert player.ended
        assert not _threads()
    assert caplog.messages == ["The moving preview stopped (RuntimeError: no room)."]
