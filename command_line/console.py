"""Progress on a terminal."""

from __future__ import annotations

import time

from tqdm import tqdm

from ..sana_video_core.callbacks import Host, Progress


class Bar:
    """One bar over the chunks of a job, moving at every model call, with the seconds that the last chunk took."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: tqdm | None = None
        self._began = time.perf_counter()

    def host(self) -> Host:
        return Host(progress=self._show)

    def _show(self, progress: Progress) -> None:
        if progress.chunk == 0:  # a call before the first chunk: the last one absorbed under a new prompt
            return
        if self._bar is None:
            self._bar = tqdm(total=progress.chunks, desc=self._title, unit="chunk", dynamic_ncols=True)
        if progress.step == progress.steps:
            now = time.perf_counter()
            self._bar.set_postfix_str(f"{now - self._began:.1f} s for chunk {progress.chunk}", refresh=False)
            self._began = now
        done = progress.chunk - 1 + progress.step / progress.steps
        self._bar.update(round(done, 2) - self._bar.n)
        if done == progress.chunks:
            self._close()  # so that what is printed next begins a line

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.close()
            self._bar = None
