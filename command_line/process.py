"""A command as a process: what it prints never costs the work, and being told to end is Ctrl-C."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

# SIGHUP: the terminal was closed; SIGBREAK is Windows' word for both
ENDINGS = ("SIGTERM", "SIGHUP", "SIGBREAK")


class LastingStream:
    """A stream that shows “?” for what it can't, and falls silent where nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:  # a closed pipe, a full disk
            self._fall_silent()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._fall_silent()

    def _fall_silent(self) -> None:
        """What is written from now on, by Python at its end too, goes nowhere."""
        with suppress(OSError, ValueError):  # a stream of a test has no number
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """In the block, nothing that is printed can raise."""
    with ExitStack() as stack:
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            # Windows gives a program without a console no streams
            lasting = LastingStream(
                stream or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
            )
            stack.callback(lasting.flush)
            stack.enter_context(redirect(lasting))  # pyright: ignore[reportArgumentType]
        yield


AGAIN = 0.05  # seconds


def _again(number: int, dropped: threading.Lock) -> None:
    """Send the signal once more, after the lock's release: on a busy machine that takes its time."""
    with dropped:
        time.sleep(AGAIN)
    _thread.interrupt_main(signal.Signals(number))


@contextmanager
def endings_are_ctrl_c() -> Iterator[list[int]]:
    """In the block, a signal to end does what Ctrl-C does; yields the numbers of those that came."""
    came: list[int] = []

    def end(number: int, frame: Any) -> None:
        came.append(number)
        ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(ctrl_c):  # a shell lets what runs in the background ignore it
            raise KeyboardInterrupt
        ctrl_c(signal.SIGINT, frame)

    def lost(what: Any) -> None:
        """Python drops an exception that comes while an object is let go: the signal comes again, soon."""
        if issubclass(what.exc_type, KeyboardInterrupt):
            number = came[-1] if came else signal.SIGINT
            here = threading.Lock()  # until it is released: what is raised here is dropped, too
            here.acquire()
            threading.Thread(target=_again, args=(number, here)).start()
            here.release()
        else:
            older_hook(what)

    older = {}
    older_hook, sys.unraisablehook = sys.unraisablehook, lost
    if threading.current_thread() is threading.main_thread():  # others can't handle signals
        for name in ENDINGS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks for
                older[number] = signal.signal(number, end)
    try:
        yield came
    finally:
        sys.unraisablehook = older_hook
        for number, handler in older.items():
            signal.signal(number, handler)
