"""--preview: a PNG file that always holds the newest small picture of what is being made."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..sana_video_core.callbacks import Progress
from ..sana_video_core.config import Family
from ..sana_video_core.errors import FileError, InputError
from ..sana_video_core.files.claims import claim
from ..sana_video_core.files.image_file import save_picture
from ..sana_video_core.files.places import same_file
from ..sana_video_core.streaming.live import ClipPreview, Drafts, FilmPreview, StreamPreview
from ..sana_video_core.vae.colours import draft_picture, fit_colours, latent_pictures
from ..sana_video_core.vae.decoders import VideoDecoder
from ..sana_video_core.vae.tiny_decoder import TinyDecoder

SIDE = 512  # pixels, as ComfyUI's previews
TRIES = 10  # pictures in a row that can't be written, before the preview ends
Pictures: TypeAlias = Callable[[Tensor], Sequence[Image.Image]]


@contextmanager
def held(options: Namespace) -> Iterator[None]:
    """Holds the file's name in the block. Raises a SanaVideoError, before any work, if it can't have it."""
    path, sheet = options.preview, options.sheet
    if path is None:
        yield
        return
    if sheet is not None and (same_file(path, sheet) or path.absolute() == sheet.absolute()):
        raise InputError(f"--sheet and --preview both name “{path}”. Give one of them another name.")
    with claim(path):
        yield


def into(path: Path) -> Callable[[Image.Image], None]:
    """What replaces the file by a picture; who reads it sees one of them, whole.

    Where Windows doesn't let go of a file that somebody reads, the picture is left out and the next tried.
    """
    failed = 0

    def show(picture: Image.Image) -> None:
        nonlocal failed
        try:
            save_picture(ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.BILINEAR), path)
            failed = 0
        except FileError:
            failed += 1
            if failed == TRIES:
                raise

    return show


class SamplingPreview:
    """Shows latents in the file --preview, in the colours of this VAE. Without the option it does nothing."""

    def __init__(
        self, options: Namespace, family: Family, vae: VideoDecoder | None, device: torch.device | str
    ) -> None:
        self._path, self._family = options.preview, family
        if self._path is None:
            return
        if isinstance(vae, TinyDecoder):
            self._pictures: Pictures = Drafts(partial(draft_picture, vae.to(device)))
            return
        assert vae is not None, "for a preview it is loaded"
        self._pictures = partial(
            latent_pictures, colours=fit_colours(vae.to(device).encode, vae.spec, device)
        )
        vae.to("cpu")  # the transformer has the device to itself

    @contextmanager
    def shots(self, count: int, frames_come: Callable[[], bool]) -> Iterator[Callable[[int, Progress], None]]:
        """Inside, the result is told of every call for a chunk: in which of `count` shots, and its news.

        Once decoded frames come meanwhile, these are shown instead.
        """
        if self._path is None:
            yield lambda shot, news: None
            return
        with StreamPreview(into(self._path), self._pictures, self._family) as preview:

            def hear(shot: int, news: Progress) -> None:
                if frames_come():
                    preview.end()
                elif news.chunk:  # of all, not of this shot
                    chunk = shot * news.chunks + news.chunk
                    preview.progress(news._replace(chunk=chunk, chunks=count * news.chunks))

            yield hear

    @contextmanager
    def clip(self) -> Iterator[Callable[[Progress], None]]:
        """Inside, the result is told of every step of a clip, which plays as it is estimated."""
        if self._path is None:
            yield lambda news: None
            return
        with ClipPreview(into(self._path), self._pictures, self._family) as preview:
            yield preview.progress


def film_preview(options: Namespace) -> FilmPreview | None:
    """What shows frames in the file --preview as they are made; None without the option."""
    if options.preview is None:
        return None
    return FilmPreview(into(options.preview), float(options.fps), SIDE)
