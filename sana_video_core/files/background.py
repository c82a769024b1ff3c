"""Work in a thread of its own, fed piece by piece."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from queue import Full, Queue
from typing import Any, Generic, TypeVar

from torch import Tensor

from .video_writer import VideoWriter

logger = logging.getLogger("sana_video")
T = TypeVar("T")

TICK = 0.2  # seconds; on Windows, Ctrl-C acts only between two waits
PIECES = 16  # of frames that wait for the encoder; one of 4 frames at 480p has 5 MB
END = object()


class Worker(AbstractContextManager, Generic[T]):
    """Runs `work` in a thread, on the items that are added; use it in a `with` block.

    Adding waits while `room` items are waiting. An error of the work ends it, and is raised where the next
    item is added, or at the end of the block. If the block raises, what was added is still worked on. Who
    waits is asked by `check` from time to time, which may raise. The thread has the context of who made it.
    """

    def __init__(self, work: Callable[[Iterator[T]], object], *, room: int, name: str) -> None:
        self.error: BaseException | None = None
        self._work, self._items = work, Queue[Any](room)
        # a daemon: who ends the program by force doesn't wait for it either
        run = copy_context().run  # so what it warns of is shown on the node that runs
        self._thread = threading.Thread(target=run, args=[self._run], name=f"sana_video {name}", daemon=True)
        self._thread.start()

    def add(self, item: T, check: Callable[[], object] = lambda: None) -> None:
        if not self._put(item, check):
            raise self.error or RuntimeError("An item was added after the end.")

    def finish(self, check: Callable[[], object] = lambda: None) -> None:
        """Wait until everything that was added is done. Raises the work's error. Can be called twice."""
        self._put(END, check)
        while self._thread.is_alive():
            self._thread.join(TICK)
            check()
        if self.error is not None:
            raise self.error

    def _put(self, item: object, check: Callable[[], object]) -> bool:
        """Whether the thread was there to take it."""
        while self._thread.is_alive():
            with suppress(Full):
                self._items.put(item, timeout=TICK)
                return True
            check()
        return False

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.finish()
        except Exception as failure:
            if error is None:
                raise
            if failure is not error:
                logger.warning("%s", failure)  # the block's own exception is the one to raise

    def _run(self) -> None:
        try:
            self._work(iter(self._items.get, END))
        except BaseException as error:  # whatever it is, it is raised where items are added
            self.error = error
        del self  # what the error's frames hold would else outlive it, in a circle


def encoding(writer: VideoWriter) -> Worker[Tensor]:
    """A worker that writes frames with `writer`, which it leaves open."""

    def write(pieces: Iterator[Tensor]) -> None:
        for frames in pieces:
            writer.write(frames)

    return Worker(write, room=PIECES, name="encoding")
