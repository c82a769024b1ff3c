"""Plays small pictures at a film's pace, in a thread of its own, while others work."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Picture = TypeVar("Picture")
logger = logging.getLogger("sana_video")


class Player(Generic[Picture]):
    """Calls `show(picture)` for one picture after another, in a thread that begins with the first of them.

    Use it in a `with`: after the block the thread has ended, whatever ended the block. An error in `show` or
    in `drawing` ends the pictures, with a warning, and never the work. `now` and `wait(condition, seconds)`
    are for tests.
    """

    def __init__(
        self,
        show: Callable[[Picture], object],
        *,
        now: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float | None], object] = threading.Condition.wait,
    ) -> None:
        self._show, self._now, self._wait = show, now, wait
        self._changed = threading.Condition()
        self._left: deque[Picture] = deque()
        self._seconds, self._again, self._ended = 0.0, False, False
        self._thread: threading.Thread | None = None

    @property
    def ended(self) -> bool:
        """Whether no picture will be shown any more."""
        return self._ended

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """In the block, pictures are made."""
        try:
            yield
        except Exception as error:  # such as a draft without room
            self._fail(error)

    def play(self, pictures: Iterable[Picture], seconds: float, *, again: bool = False) -> None:
        """Show these, one every `seconds`, in place of what is left of the last ones. Returns at once.

        With `again` they play in a loop until others come.
        """
        with self._changed:
            if self._ended:
                return
            self._left, self._seconds, self._again = deque(pictures), seconds, again
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sana-video player", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, last: Picture | None = None) -> None:
        """End the pictures, with this one if there is one, and wait for it. Safe to call again."""
        with self._changed:
            if not self._ended:
                self._left = deque() if last is None else deque([last])
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Player[Picture]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        logger.warning("The moving preview stopped (%s: %s).", type(error).__name__, error)

    def _work(self) -> None:
        last = -math.inf  # when the last picture was due
        try:
            while (turn := self._next(last)) is not None:
                picture, seconds = turn
                begun = self._now()
                self._show(picture)
                # from when it was due, so that the pace holds; a whole turn that was missed isn't made up for
                last = last + seconds if begun - last < 2 * seconds else begun
        except Exception as error:
            self._fail(error)

    def _next(self, last: float) -> tuple[Picture, float] | None:
        """The next picture, when its turn has come, and how long after the last one; None at the end."""
        with self._changed:
            while not self._ended:
                early = last + self._seconds - self._now()
                if self._left and early <= 0:
                    picture = self._left.popleft()
                    if self._again:
                        self._left.append(picture)
                    return picture, self._seconds
                self._wait(self._changed, early if self._left else None)
            return (self._left.popleft(), 0) if self._left else None
