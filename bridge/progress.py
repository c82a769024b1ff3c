"""ComfyUI's progress bar, previews, interrupts and words on a node as the core's callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import comfy.model_management
import comfy.utils

from ..sana_video_core.callbacks import Callbacks, Progress
from .words import say_progress


def interrupted() -> bool:
    """Raises if the artist has stopped the run; never returns True."""
    comfy.model_management.throw_exception_if_processing_interrupted()  # ComfyUI's own exception ends the run
    return False


def callbacks(
    chunks: int,
    steps: int,
    ends: Sequence[float] = (),
    preview: Callable[[Progress], object] = lambda news: None,
    what: str = "",
    known: Collection[int] = (),
) -> Callbacks:
    """One progress bar over `chunks` x `steps`, and a line on the node; a preview hears of every step, too.

    `ends` are the seconds of video up to the end of each chunk; `what` begins the line; `known` are the
    numbers of chunks, from 1, that take no time.
    """
    bar = comfy.utils.ProgressBar(chunks * steps)
    begun, skipped = time.monotonic(), None

    def progress(news: Progress) -> None:
        nonlocal skipped
        if news.chunk == 0:  # recache, before the first chunk
            return
        if skipped is None and not known:  # a decoder may begin in a later scene
            skipped = news.chunk - 1
        free = sum(number < news.chunk for number in known), sum(number > news.chunk for number in known)
        done = (news.chunk - 1) * steps + news.step * steps // news.steps
        bar.update_absolute(done, chunks * steps)
        preview(news)
        say_progress(what + progress_line(news, ends, time.monotonic() - begun, skipped or free[0], free[1]))

    return Callbacks(cancelled=interrupted, progress=progress)


def clip_callbacks(steps: int, preview: Callable[[Progress], object]) -> Callbacks:
    """A progress bar over the steps of a clip, and a line on the node; a preview hears of every step, too."""
    bar, begun = comfy.utils.ProgressBar(steps), time.monotonic()

    def progress(news: Progress) -> None:
        bar.update_absolute(news.step, news.steps)
        preview(news)
        say_progress(step_line(news, time.monotonic() - begun))

    return Callbacks(cancelled=interrupted, progress=progress)


def step_line(news: Progress, elapsed: float) -> str:
    """“step 12 of 50 · about 40 s left”, and at the end how long it took."""
    left = news.steps - news.step
    if not left:
        return f"{news.steps} step{'s' * (news.steps > 1)} · took {_duration(elapsed)}"
    rest = f" · about {_duration(elapsed / news.step * left)} left" if news.step > 1 else ""
    return f"step {news.step} of {news.steps}{rest}"


def progress_line(
    news: Progress, ends: Sequence[float], elapsed: float, skipped: int = 0, coming: int = 0
) -> str:
    """“chunk 3 of 6 · 7.5 of 15 s · about 40 s left”, and when all is done, how long it took.

    `skipped` are the chunks before this one that took no time, `coming` those after it that will take none.
    """
    length = [f"{_tenths(ends[news.chunk - 1])} of {_tenths(ends[-1])} s"] if ends else []
    done = (news.chunk - 1) * news.steps + news.step
    left = news.chunks * news.steps - done
    if not left:
        whole = [f"{news.chunks} chunk{'s' * (news.chunks > 1)}", *(f"{_tenths(end)} s" for end in ends[-1:])]
        return " · ".join([*whole, f"took {_duration(elapsed)}"])
    made, left = done - skipped * news.steps, left - coming * news.steps
    rest = [f"about {_duration(elapsed / made * left)} left"] if made > 1 else []  # the first call warms up
    return " · ".join([f"chunk {news.chunk} of {news.chunks}", *length, *rest])


def _tenths(seconds: float) -> str:
    return f"{seconds:.1f}".removesuffix(".0")


def _duration(seconds: float) -> str:
    """In words of one unit: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
