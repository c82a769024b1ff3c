"""Resumes an interrupted run, whose finished chunks are kept for the same request."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from .state import State

Run = Callable[[State, int], Iterator[State]]


class InterruptedRun:
    """The last interrupted run. Only one is kept, so that memory stays bounded."""

    def __init__(self) -> None:
        # the request, the state that it began with (compared by identity), and the newest state
        self._kept: tuple[Hashable, State, State] | None = None

    def run_or_resume(self, request: Hashable, state: State, chunks: int, run: Run) -> State:
        """The state after `chunks` more chunks, which `run(state, chunks)` makes one by one.

        `request` is everything that decides them, apart from their number. If the same request was
        interrupted before, it is resumed. The result is the same: N chained runs of one chunk are
        bit-identical to one run of N.
        """
        newest = self._resumed(request, state, chunks)
        left = chunks - len(newest.history) + len(state.history)
        try:
            # `run` reads its arguments once, so the loop may reuse `newest`
            for newest in run(newest, left) if left else ():  # noqa: B007, B020
                pass
        except BaseException:  # a host's interrupt may not be an Exception
            if newest is not state:
                self._kept = (request, state, newest)
            raise
        return newest

    def _resumed(self, request: Hashable, state: State, chunks: int) -> State:
        """The state at which the same request was interrupted, or the one that it begins with."""
        if self._kept is None:
            return state
        kept_request, began, newest = self._kept
        if began is not state or kept_request != request or len(newest.history) - len(state.history) > chunks:
            return state
        self._kept = None
        return newest
