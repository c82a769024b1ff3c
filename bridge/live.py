"""Moving pictures on the node that runs, by the artist's preview setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import latent_preview
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from torch import Tensor

from ..sana_video_core.config import Family
from ..sana_video_core.streaming.live import Drafts, FilmPreview, StreamPreview
from ..sana_video_core.vae.colours import latent_pictures
from .page import picture_sender

Pictures = Callable[[Tensor], Sequence[Image.Image]]


def stream_preview(patcher: Any, family: Family) -> StreamPreview:
    """What Block Sampler shows on its node; to be made while that runs."""
    return StreamPreview(picture_sender(), _pictures(patcher), family)


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
    drafts = Drafts(previewer.decode_latent_to_preview) if drafting else lambda latents: []
    return lambda latents: drafts(latents) or latent_pictures(latents, matrix)


def _of_another_pack(previewer: Any, latents: Tensor) -> list[Image.Image]:
    """What a previewer gives that another pack put in place of ComfyUI's. Some show by themselves."""
    shown = previewer.decode_latent_to_preview_image("JPEG", latents)
    return [shown[1]] if shown else []
