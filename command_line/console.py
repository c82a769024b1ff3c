"""Progress on a terminal: a bar over the chunks of `generate`, and a bar for each node of `run`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image
from tqdm import tqdm

from ..sana_video_core.callbacks import Callbacks, Progress
from ..sana_video_core.streaming.player import Player
from ..standalone.engine.graph import Prompt, title


class Bar(AbstractContextManager):
    """A progress bar that appears with its first value. What is printed after it closes starts a new line."""

    def __init__(self, title: str, unit: str = "chunk") -> None:
        self._title, self._unit = title, unit
        self._bar: tqdm | None = None
        self._began = time.perf_counter()

    def show(self, value: float, total: float, note: str = "") -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, desc=self._title, unit=self._unit, dynamic_ncols=True)
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.total = total
        self._bar.update(round(value, 2) - self._bar.n)

    def close(self, full: bool = False) -> None:
        if self._bar is not None:
            self._bar.n = self._bar.total if full else self._bar.n
            self._bar.refresh()
            self._bar.close()
            self._bar = None

    def callbacks(self, preview: Callable[[Progress], object] = lambda news: None) -> Callbacks:
        """Callbacks that move the bar at every model call, and show how long the last chunk took.

        A preview hears of every call, too.
        """

        def progress(news: Progress) -> None:
            self._show_chunks(news)
            preview(news)

        return Callbacks(progress=progress)

    def _show_chunks(self, progress: Progress) -> None:
        if progress.chunk == 0:  # recache, before the first chunk
            return
        value, note = progress.chunk - 1 + progress.step / progress.steps, ""
        if progress.step == progress.steps:
            now = time.perf_counter()
            note, self._began = f"{now - self._began:.1f} s for chunk {progress.chunk}", now
        self.show(value, progress.chunks, note)
        if value == progress.chunks:
            self.close()

    def __exit__(self, *error: object) -> None:
        self.close()


class FilmBar(Bar):
    """One bar over a film's chunks, of which being sampled is one half and being decoded the other.

    Both may go on at the same time, in two threads.
    """

    def __init__(self, chunks: int) -> None:
        super().__init__("film")
        self._chunks, self._sampled, self._decoded = chunks, 0.0, 0.0
        self._lock = Lock()

    def sampling(self, before: int, preview: Callable[[Progress], object]) -> Callbacks:
        """Callbacks of a shot that begins after so many chunks. A preview hears of every call, too."""

        def progress(news: Progress) -> None:
            preview(news)
            if news.chunk == 0:  # recache, before the first chunk
                return
            note = ""
            if news.step == news.steps:
                now = time.perf_counter()
                note, self._began = f"{now - self._began:.1f} s for chunk {before + news.chunk}", now
            self._sampled = before + news.chunk - 1 + news.step / news.steps
            self._show_both(note)

        return Callbacks(progress=progress)

    def decoding(self, first: int) -> Callbacks:
        """Callbacks of a decoder that shows the chunks from number `first` (counted from 0) on."""

        def progress(news: Progress) -> None:
            done = news.chunk - 1 + news.step / news.steps - first
            self._decoded = self._chunks * max(0.0, done / (news.chunks - first))
            self._show_both("")

        return Callbacks(progress=progress)

    def say(self, words: str) -> None:
        """Print to stderr, above the bar."""
        tqdm.write(words, file=sys.stderr)

    def _show_both(self, note: str) -> None:
        with self._lock:
            self.show((self._sampled + self._decoded) / 2, self._chunks, note)

    def __exit__(self, kind: object = None, *error: object) -> None:
        self.close(full=kind is None)  # what the store had of the film was not decoded


class Console:
    """Shows what an Executor or a server reports: a bar for each node, texts, and the files' paths.

    `left_out` also hears why an output was left out, and `show` is called with live pictures, in a thread.
    """

    def __init__(
        self,
        prompt: Prompt,
        left_out: Callable[[str], object] = lambda words: None,
        show: Callable[[Image.Image], object] | None = None,
    ) -> None:
        self._prompt, self._left_out = prompt, left_out
        self._player, self._newest = show and Player(show), None
        self._bar: Bar | None = None
        self.files: list[dict[str, str]] = []  # what nodes saved: filename, subfolder, type

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        self._close(full=False)
        if self._player is not None:
            self._player.close(self._newest)

    def see(self, picture: Image.Image) -> None:
        """Show a live picture, from any thread."""
        if self._player is not None:
            self._newest = picture
            self._player.play([picture], 0)

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Handles an Executor's event."""
        if event == "executing":
            self._close(full=True)
            self._bar = Bar(title(self._prompt, data["node"]), unit="step")
            self._bar.show(0, 1)
        elif event == "progress" and self._bar is not None:
            self._bar.show(data["value"], data["max"])
        elif event == "picture":
            self.see(data["preview"][1])
        elif event == "executed":
            self._close(full=True)
            output = data.get("output") or {}
            # without previews
            self.files += [file for file in output.get("images", []) if file["type"] == "output"]
            for line in output.get("text", []):
                self.say(line)
        elif event in ("finished", "error"):
            self._close(full=event == "finished")
        elif event == "left out":
            self._left_out(data["message"])
            self.say(f"Left out, the rest runs:\n{data['message']}")

    def say(self, line: str) -> None:
        tqdm.write(line)

    def say_saved(self, files: list[Path]) -> None:
        for path in files:
            self.say(f"saved {path}")

    def _close(self, full: bool) -> None:
        if self._bar is not None:
            self._bar.close(full)
            self._bar = None
