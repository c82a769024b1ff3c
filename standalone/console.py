"""Progress on a terminal."""

from __future__ import annotations

import time

from tqdm import tqdm

from ..sana_video_core.host import Host, Progress


class Bar:
    """One bar over all model calls of a job, with the seconds that the last chunk took. A context manager."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: tqdm | None = None
        self._chunk, self._began = 0, time.perf_counter()

    def host(self) -> Host:
        return Host(progress=self._show)

    def _show(self, progress: Progress) -> None:
        if progress.chunk == 0:  # a call before the first chunk: the last one absorbed under a new prompt
            return
        total = progress.chunks * progress.steps
        if self._bar is None:
            self._bar = tqdm(total=total, desc=self._title, unit="call", dynamic_ncols=True)
        done = (progress.chunk - 1) * progress.steps + progress.step
        if progress.step == progress.steps:
            seconds = time.perf_counter() - self._began
            self._began = time.perf_counter()
            self._bar.set_postfix_str(f"chunk {progress.chunk}/{progress.chunks}, {seconds:.1f} s/chunk")
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
