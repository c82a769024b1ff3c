"""Moving pictures on the node that runs, by the artist's preview setting."""

from __future__ import annotations

import time
from typing import Any

import latent_preview
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from torch import Tensor

from ..sana_video_core.callbacks import Progress
from ..sana_video_core.config import Family
from ..sana_video_core.files.image_file import small_pictures
from ..sana_video_core.streaming.player import Player
from ..sana_video_core.vae.colours import latent_pictures
from .page import picture_sender

SHARE = 0.04  # of a chunk's time, for drafts of its frames
MOST = 16  # pictures a second: more is work for the page that nobody sees


class StreamPreview:
    """What Block Sampler shows on its node. Use it in a `with`; inside, its node runs.

    In the first chunk that is the newest estimate, as with ComfyUI's samplers. From the second on the last
    chunk plays in a loop, at the film's pace, or faster where the next chunk is ready sooner.
    """

    def __init__(self, patcher: Any, family: Family) -> None:
        self._colours = patcher.model.latent_format
        self._previewer: Any = latent_preview.get_previewer(patcher.load_device, self._colours)
        self._player = Player(picture_sender())
        self._pace = family.compression.time / family.fps  # seconds of film in a latent frame
        self._begun, self._cost = time.monotonic(), 0.0  # of this chunk; of one draft

    def beside(self, news: Progress) -> tuple[str, Image.Image, int] | None:
        """The picture that goes with the progress bar, as ComfyUI takes it; None while others play."""
        if self._previewer is None or news.latents is None:
            return None
        if news.step == news.steps and news.chunk == news.chunks:
            self._player.close()  # the newest frame stays on the node
        elif news.step == news.steps:
            self._play(news.latents)
        if self._player.playing:
            return None
        begun = time.monotonic()
        picture = self._previewer.decode_latent_to_preview_image("JPEG", news.latents[:, :, -1:])
        self._cost = time.monotonic() - begun
        return picture

    def _play(self, latents: Tensor) -> None:
        begun, self._begun = self._begun, time.monotonic()
        took, film = self._begun - begun, latents.shape[2] * self._pace
        if isinstance(self._previewer, latent_preview.Latent2RGBPreviewer):
            pictures = latent_pictures(latents, _matrix(self._colours))
        else:
            pictures = self._drafts(latents, took)
        self._player.play(pictures, max(1 / MOST, min(film, took) / len(pictures)), again=True)

    def _drafts(self, latents: Tensor, took: float) -> list[Image.Image]:
        """Pictures of as many latent frames, evenly spread, as a small share of a chunk's time pays for."""
        frames, begun = latents.shape[2], time.monotonic()
        every = min(frames, -(-frames // max(1, int(SHARE * took / max(self._cost, 1e-6)))))
        chosen = range(frames - 1, -1, -every)[::-1]
        decode = self._previewer.decode_latent_to_preview
        pictures = [decode(latents[:, :, i : i + 1]) for i in chosen]
        self._cost = (time.monotonic() - begun) / len(pictures)
        return pictures

    def __enter__(self) -> StreamPreview:
        return self

    def __exit__(self, *error: object) -> None:
        self._player.close()


class FilmPreview:
    """Shows the frames of a film on its node as they are made, at most at its pace. Use it in a `with`."""

    def __init__(self, fps: float) -> None:
        self._wanted = args.preview_method != LatentPreviewMethod.NoPreviews
        self._player = Player(picture_sender())
        self._fps, self._begun = min(fps, MOST), time.monotonic()

    def show(self, pixels: Tensor) -> None:
        """Play frames [B, 3, n, H, W] in [-1, 1], of the first row, until the next ones come."""
        if not self._wanted:
            return
        begun, self._begun = self._begun, time.monotonic()
        pictures = small_pictures(pixels[0], latent_preview.MAX_PREVIEW_RESOLUTION)
        self._player.play(pictures, max(1 / self._fps, (self._begun - begun) / len(pictures)))

    def __enter__(self) -> FilmPreview:
        return self

    def __exit__(self, *error: object) -> None:
        self._player.close()


def _matrix(colours: Any) -> Tensor:
    """A latent format's colours [C + 1, 3]: weights and, as the last row, the bias."""
    bias = colours.latent_rgb_factors_bias or [0.0] * 3
    return torch.tensor([*colours.latent_rgb_factors, bias])
