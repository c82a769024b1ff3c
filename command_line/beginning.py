"""What a video of `generate` begins from: its size, a picture or a video, a saved state."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import Any

from torch import Tensor

from ..sana_video_core.config import LONGSANA_480P
from ..sana_video_core.errors import InputError
from ..sana_video_core.files.image_file import read_image
from ..sana_video_core.files.image_reader import opened_image
from ..sana_video_core.files.noise_file import read_noise
from ..sana_video_core.streaming.priming import check_video_end, encode_beginning, video_end
from ..sana_video_core.streaming.state import State, check_fits
from ..sana_video_core.streaming.state_file import check_light, load_state
from ..sana_video_core.streaming.stream import start
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.transformer.network import VideoNetwork
from ..sana_video_core.vae.decoders import VideoDecoder, VideoVAE
from .models import Models
from .outputs import tiling_of


def read_beginning(options: Namespace) -> None:
    """Refuse what a video begins from, if it can't be read, before anything is loaded.

    In place of their paths, --state-in and --noise become what these files hold.
    """
    if options.state_in is not None:
        options.state_in = load_state(options.state_in)
        if options.light:
            check_light(options.state_in)
    if options.noise is not None:
        options.noise = read_noise(options.noise)
    if options.image is not None:
        with opened_image(options.image, near=(1, 1)) as image:
            image.load()
    if options.video is not None:
        check_video_end(options.video, LONGSANA_480P)


def size_of(options: Namespace, model: VideoNetwork[Any]) -> tuple[int, int]:
    """Height and width in pixels."""
    return options.size[::-1] if options.size else (model.family.height, model.family.width)


def beginning_of(
    options: Namespace, models: Models, model: VideoNetwork[Any], vae: VideoDecoder | None
) -> Tensor | None:
    """--image or --video as model-space latents [1, C, F, H, W]; None without them."""
    height, width = size_of(options, model)
    family = model.family
    if options.image is not None:
        pixels = read_image(options.image, width=width, height=height)
    elif options.video is not None:
        pixels = video_end(options.video, family, width=width, height=height)
    else:
        return None
    assert isinstance(vae, VideoVAE), "without one, pictures are refused earlier"
    vae.to(models.vae_device)
    encode = partial(vae.encode, tiling=tiling_of(options))
    latents = encode_beginning(encode, pixels.to(models.vae_device), family)
    vae.to("cpu")  # the transformer has the device to itself
    return latents


def begun_or_empty(options: Namespace, model: SanaVideo) -> State:
    if options.state_in is None:
        height, width = size_of(options, model)
        return start(model, height=height, width=width, window=options.window or None)
    state = options.state_in
    check_fits(state, model, batch=1)
    if options.size:
        check_fits(state, model, height=options.size[1], width=options.size[0])
    if options.window is not None and (options.window or None) != state.identity.window:
        raise InputError(
            f"This state was started with {state.identity.window or 'no'} --window, but {options.window} was "
            "given. A stream keeps its window: leave out --window, or start a new one."
        )
    return state
