"""Moving pictures on the node that runs, by the artist's preview setting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import latent_preview
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from torch import Tensor

from ..sana_video_core.checkpoints.draft import load_draft
from ..sana_video_core.config import Family
from ..sana_video_core.errors import FileError
from ..sana_video_core.streaming.live import ClipPreview, Drafts, FilmPreview, StreamPreview
from ..sana_video_core.vae.colours import draft_picture, latent_pictures
from ..sana_video_core.vae.tiny_decoder import KINDS
from .page import picture_sender

logger = logging.getLogger("sana_video")
Pictures = Callable[[Tensor], Sequence[Image.Image]]


def stream_preview(patcher: Any, family: Family) -> StreamPreview:
    """What Block Sampler shows on its node; to be made while that runs."""
    return StreamPreview(picture_sender(), _pictures(patcher), family)


def clip_preview(patcher: Any, family: Family) -> ClipPreview:
    """What SANA-Video Sampler shows on its node; to be made while that runs."""
    return ClipPreview(picture_sender(), _pictures(patcher), family)


def film_preview(fps: float) -> FilmPreview | nullcontext[None]:
    """What Decode Stream shows on its node; to be made while that runs."""
    if args.preview_method == LatentPreviewMethod.NoPreviews:
        return nullcontext()
    return FilmPreview(picture_sender(), fps, latent_preview.MAX_PREVIEW_RESOLUTION)


def _pictures(patcher: Any) -> Pictures:
    """Small pictures of latents, as the artist wants them in ComfyUI: of their colours, drafts, or none."""
    colours = patcher.model.latent_format
    previewer = latent_preview.get_previewer(patcher.load_device, colours)
    if previewer is None:
        return lambda latents: []
    drafting = isinstance(previewer, latent_preview.TAEHVPreviewerImpl)
    if not drafting and not isinstance(previewer, latent_preview.Latent2RGBPreviewer):
        return lambda latents: _of_another_pack(previewer, latents)
    bias = colours.latent_rgb_factors_bias or [0.0] * 3
    matrix = torch.tensor([*colours.latent_rgb_factors, bias])
    decode = _draft(patcher) or (previewer.decode_latent_to_preview if drafting else None)
    if decode is None:
        return lambda latents: latent_pictures(latents, matrix)
    return partial(_drafted, Drafts(decode), matrix)


def _drafted(drafts: Drafts, colours: Tensor, latents: Tensor) -> list[Image.Image]:
    """Drafts; colours where a draft would cost too much time or memory."""
    try:
        pictures = drafts(latents)
    except torch.OutOfMemoryError:
        pictures = []
    return pictures or latent_pictures(latents, colours)


def _draft(patcher: Any) -> Callable[[Tensor], Image.Image] | None:
    """The artist's tiny decoder of Wan's latents, run by our network, or None.

    ComfyUI's own preview knows lighttaew2_1 only, and hands it latents of another scale.
    """
    if args.preview_method != LatentPreviewMethod.TAESD or not patcher.model.latent_format.taesd_decoder_name:
        return None
    files = folder_paths.get_filename_list("vae_approx")
    name = next((file for kind in KINDS[::-1] for file in files if Path(file).name.startswith(kind)), None)
    path = name and folder_paths.get_full_path("vae_approx", name)
    if not path:
        return None
    try:
        decoder = load_draft(path, device=patcher.load_device, dtype=patcher.model.get_dtype_inference())
    except FileError as error:
        logger.warning("The preview has no drafts: %s", error)
        return None
    return partial(draft_picture, decoder)


def _of_another_pack(previewer: Any, latents: Tensor) -> list[Image.Image]:
    """What a previewer gives that another pack put in place of ComfyUI's. Some show by themselves."""
    shown = previewer.decode_latent_to_preview_image("JPEG", latents)
    return [shown[1]] if shown else []
