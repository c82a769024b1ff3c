"""What is made goes to the store while the next chunk is sampled: a GPU doesn't wait for a disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from contextvars import copy_context

from ..errors import FileError
from ..streaming.state import Chunk, State, StreamState
from .memories import is_needed, keep_memory
from .naming import Namer
from .store import Store

logger = logging.getLogger("sana_video")
LATENTS = "latents"
TICK = 0.2  # seconds; on Windows, Ctrl-C acts only between two waits


class Keeping(AbstractContextManager):
    """Writes in a thread, one after the other; use it in a `with` block, which ends with all written.

    What can't be written is told once, and from then on nothing is.
    """

    def __init__(self, store: Store | None, namer: Namer | None) -> None:
        self._store, self._namer, self._last = store, namer, None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sana_video store")

    def chunk(self, chunk: Chunk) -> None:
        """Begin to write a chunk, when what came before is written. One without a name isn't."""
        if chunk.key is not None:
            self._begin(lambda store, namer: _write(store, chunk, namer.content))

    def memory(self, state: State) -> None:
        """Begin to write a state's memory, where the model that goes on couldn't make it again."""
        if self._store is None or self._namer is None or not isinstance(state, StreamState):
            return
        if is_needed(self._store, state, self._namer):
            self._begin(lambda store, namer: keep_memory(store, state))

    def _begin(self, work: Callable[[Store, Namer], None]) -> None:
        self.settle()
        if self._store is not None and self._namer is not None:
            # in this context: so what it warns of is shown on the node that runs
            self._last = self._pool.submit(copy_context().run, work, self._store, self._namer)

    def settle(self) -> None:
        """Wait until what was begun is on the disk."""
        last, self._last = self._last, None
        if last is None:
            return
        while not wait([last], TICK).done:
            pass
        self._settled(last)

    def _settled(self, last: Future[None]) -> None:
        try:
            last.result()
        except FileError as error:
            logger.warning("%s The film goes on; after a crash, it would begin again from here.", error)
            self._store = None

    def __exit__(self, *error: object) -> None:
        try:
            self.settle()
        finally:
            self._pool.shutdown()


def _write(store: Store, chunk: Chunk, model: str) -> None:
    assert chunk.key is not None
    about = {"compute": chunk.compute, "prompt": chunk.prompt, "seed": chunk.seed, "entry": chunk.entry}
    about["model"] = model
    store.write("chunks", chunk.key, {LATENTS: chunk.latents}, about)
    if chunk.anywhere is not None:
        store.add_anywhere(chunk.anywhere, chunk.key)
