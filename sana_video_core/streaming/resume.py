"""An interrupted run loses nothing: what it had finished waits for the same request."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from .state import StreamState

Go = Callable[[StreamState, int], Iterator[StreamState]]


class Unfinished:
    """The last interrupted run of a stream; at most one, so that memory stays bounded. Its states are values like all."""

    def __init__(self) -> None:
        # the request, the state that it began with (an object, compared as one), and the state that it got to
        self._kept: tuple[Hashable, StreamState, StreamState] | None = None

    def run(self, request: Hashable, state: StreamState, chunks: int, go: Go) -> StreamState:
        """The state after `chunks` more chunks, which `go(state, chunks)` makes one by one.

        `request` is all that decides them, apart from their number. When the same request was stopped before, its chunks
        are taken up: N chained runs of one chunk are one run of N, to the last bit.
        """
        newest = self._taken_up(request, state, chunks)
        left = chunks - len(newest.story) + len(state.story)
        try:
            for newest in go(newest, left) if left else ():  # noqa: B007, B020  `go` got the state that it begins with
                pass
        except BaseException:  # a host's interrupt need not be of Exception's kind
            if newest is not state:
                self._kept = (request, state, newest)
            raise
        return newest

    def _taken_up(self, request: Hashable, state: StreamState, chunks: int) -> StreamState:
        if self._kept is None:
            return state
        known, began, made = self._kept
        if began is not state or known != request or len(made.story) - len(state.story) > chunks:
            return state
        self._kept = None
        return made
