"""What is seen of a video while it is made: latents as they are sampled, frames as they are decoded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor

from ..callbacks import Progress
from ..config import Family
from ..cuda_streams import cuda_devices, own_streams
from .player import Player

MOST = 16  # pictures a second: more is work that nobody sees
SHARE, FIRST_SHARE = 0.04, 0.1  # of the time for drafts: of a chunk's frames, of estimates in the first chunk
Show = Callable[[Image.Image], object]


class StreamPreview:
    """Shows the chunks of a stream. Use it in a `with`: after it nothing is shown; the newest frame stays.

    Until the first chunk is done it is the newest estimate. From then on the last chunk plays in a loop, at
    the film's pace, or faster where the next one is ready sooner. `pictures` gives small pictures of latents
    [B, C, F, H, W], at most one for a latent frame.
    """

    def __init__(
        self,
        show: Show,
        pictures: Callable[[Tensor], Sequence[Image.Image]],
        family: Family,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._player, self._pictures, self._now = Player(show), pictures, now
        self._pace, self._base = family.compression.time / family.fps, family.chunks.base
        self._begun, self._played = now(), False
        self._newest: Image.Image | None = None

    def progress(self, news: Progress) -> None:
        """To be told of every model call, as `Callbacks.progress` is."""
        if news.chunk == 0 or news.latents is None or self._player.ended:
            return
        finished = news.step == news.steps
        # these latents are there, so pictures needn't wait for the next call in a GPU's queue
        own = own_streams(cuda_devices(news.latents.device), "preview", urgent=True)
        with self._player.drawing(), own:
            if finished and news.chunk < news.chunks:
                self._play(news.latents)
            elif finished or not self._played:
                self._show(self._pictures(news.latents[:, :, -1:]), 0)

    def _play(self, latents: Tensor) -> None:
        took, self._begun = self._now() - self._begun, self._now()
        latents = latents[:, :, -self._base :]  # a scene's first latent frame is one frame, in odd colours
        pictures = self._pictures(latents)
        seconds = min(self._pace * latents.shape[2], took) / max(1, len(pictures))
        self._show(pictures, max(1 / MOST, seconds), again=True)
        self._played = bool(pictures)

    def _show(self, pictures: Sequence[Image.Image], seconds: float, again: bool = False) -> None:
        if pictures:
            self._player.play(pictures, seconds, again=again)
            self._newest = pictures[-1]

    def end(self) -> None:
        """Show nothing more, not even the newest frame."""
        self._player.close()

    def __enter__(self) -> StreamPreview:
        return self

    def __exit__(self, *error: object) -> None:
        self._player.close(self._newest)


class ClipPreview:
    """Plays the newest estimate of a clip in a loop. Use it in a `with`: after it its last frame stays.

    `pictures` gives small pictures of latents [B, C, F, H, W], at most one for a latent frame.
    """

    def __init__(
        self, show: Show, pictures: Callable[[Tensor], Sequence[Image.Image]], family: Family
    ) -> None:
        self._player, self._pictures = Player(show), pictures
        self._pace = family.compression.time / family.fps
        self._newest: Image.Image | None = None

    def progress(self, news: Progress) -> None:
        """To be told of every step, as `Callbacks.progress` is."""
        if news.latents is None or self._player.ended:
            return
        own = own_streams(cuda_devices(news.latents.device), "preview", urgent=True)
        with self._player.drawing(), own:
            pictures = self._pictures(news.latents)
            if pictures:
                seconds = self._pace * news.latents.shape[2] / len(pictures)
                self._player.play(pictures, max(1 / MOST, seconds), again=True)
                self._newest = pictures[-1]

    def __enter__(self) -> ClipPreview:
        return self

    def __exit__(self, *error: object) -> None:
        self._player.close(self._newest)


class Drafts:
    """Draft pictures of as many latent frames, evenly spread, as a small share of the time pays for."""

    def __init__(
        self, decode: Callable[[Tensor], Image.Image], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._decode, self._now = decode, now
        self._chunk = self._last = now()  # when the last chunk was drawn, and the last draft
        self._cost = 0.0  # of one draft, in seconds

    def __call__(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents [B, C, F, H, W], with the newest frame; none where one would cost too much."""
        frames, begun = latents.shape[2], self._now()
        budget = FIRST_SHARE * (begun - self._last) if frames == 1 else SHARE * (begun - self._chunk)
        paid = frames if self._cost == 0 else int(budget / self._cost)
        if frames > 1:
            self._chunk = begun
        if paid < 1:
            return []
        every = -(-frames // paid)
        chosen = range(frames - 1, -1, -every)[::-1]
        pictures = [self._decode(latents[:, :, i : i + 1]) for i in chosen]
        self._last = self._now()
        self._cost = (self._last - begun) / len(pictures)
        return pictures


class FilmPreview:
    """Shows frames as they are made, at most at the film's pace, each side at most `most` pixels.

    Use it in a `with`: after it nothing is shown, and the newest frame stays.
    """

    def __init__(
        self, show: Show, fps: float, most: int, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        # made small where they are shown: most frames of a fast decoder never are
        self._player = Player[Tensor](lambda frame: show(_small(frame, most)))
        self._fps, self._now = min(fps, MOST), now
        self._begun, self._newest = now(), None

    def frames(self, frames: Tensor) -> None:
        """Play bytes [n, H, W, 3], on the CPU, until the next ones come."""
        took, self._begun = self._now() - self._begun, self._now()
        self._player.play(frames.unbind(0), max(1 / self._fps, took / len(frames)))
        self._newest = frames[-1]

    def __enter__(self) -> FilmPreview:
        return self

    def __exit__(self, *error: object) -> None:
        self._player.close(self._newest)


def _small(frame: Tensor, most: int) -> Image.Image:
    picture = Image.fromarray(frame.numpy())
    picture.thumbnail((most, most), Image.Resampling.BILINEAR)
    return picture
