"""Where a film is decoded: beside the sampling, in turn with it, or on another GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_management
import torch

from ..sana_video_core.config import VAE_DEVICES
from ..sana_video_core.errors import InputError
from ..sana_video_core.films.projector import Screen
from ..sana_video_core.streaming.pipeline import SPARE
from ..sana_video_core.streaming.state import Identity
from ..sana_video_core.vae.reach import decoder_reach
from ..sana_video_core.vae.vae_config import VAEConfig
from ..sana_video_core.vae.wan_vae import WanVAE
from .devices import device_of
from .stream_model import HostedModel
from .vaes import HostedDecoder, HostedVae


def screen_of(
    model: HostedModel, decoder: HostedDecoder, vae: Any, identity: Identity, overlap: str, device: str
) -> Screen:
    """How the film node decodes. `overlap` is one of OVERLAPS, `device` one of VAE_DEVICES."""
    turns = Turns(model, decoder, identity, overlap)
    if (elsewhere := _device(device, decoder.device)) != decoder.device:
        moved = moved_decoder(decoder, vae, elsewhere)
        reach = decoder_reach(moved)
        return Screen(
            decoder=moved, device=elsewhere, overlap=lambda: True, reach=reach, to_sample=turns.to_sample
        )
    return Screen(
        decoder=decoder,
        device=decoder.device,
        overlap=turns.side_by_side,
        reach=decoder_reach(decoder.network),
        to_sample=turns.to_sample,
        to_decode=turns.to_decode,
        inside=partial(device_of, decoder.patcher),
    )


class Turns:
    """Which of transformer and VAE ComfyUI has loaded on their device.

    Loading may unload the other one, so it is only done while that one rests; side by side, never.
    """

    def __init__(self, model: HostedModel, decoder: HostedDecoder, identity: Identity, overlap: str) -> None:
        self._model, self._decoder, self._wish = model, decoder, overlap
        self._size = identity.batch, identity.grid

    def to_sample(self) -> None:
        self._model.load(*self._size)

    def to_decode(self) -> None:
        self._decoder.load_for(*self._size)

    def side_by_side(self) -> bool:
        """Whether the VAE can decode while the transformer samples: both are loaded then, whole, for good.

        ComfyUI fetches weights that aren't into buffers which two threads would share. Asked while both rest,
        so what sampling takes counts as free.
        """
        if self._wish == "off" or self._decoder.device.type != "cuda":
            return False
        management, device = comfy.model_management, self._decoder.device
        patchers = [self._model.patcher, self._decoder.patcher]
        needed = self._decoder.network.memory_for(*self._size, device) + self._model.memory_for(*self._size)
        if any(each.is_dynamic() for each in patchers):
            return False
        management.load_models_gpu(patchers, memory_required=needed + SPARE)
        whole = all(each.loaded_size() >= each.model_size() for each in patchers)
        free = management.get_free_memory(device)
        return whole and (self._wish == "on" or free > needed + SPARE)


def _device(name: str, default: torch.device) -> torch.device:
    if name == VAE_DEVICES[0]:
        return default
    number = int(name.removeprefix("gpu:"))
    if number >= torch.cuda.device_count():
        raise InputError(
            f"vae_device is {name}, but this computer has {torch.cuda.device_count() or 'no'} CUDA GPUs "
            "(counted from 0). Choose default."
        )
    return torch.device("cuda", number)


def moved_decoder(decoder: HostedDecoder, vae: Any, device: torch.device) -> WanVAE:
    """A copy of the VAE on another device. ComfyUI doesn't know of it; it goes with the film."""
    if not isinstance(decoder, HostedVae):
        raise InputError("A draft decoder takes no time worth a second GPU: choose default as vae_device.")
    if decoder.patcher.patches:
        raise InputError(
            "Another node has changed this VAE's weights, which a copy on a second GPU wouldn't have: choose "
            "default as vae_device."
        )
    weights = vae.first_stage_model.state_dict()
    network = WanVAE(VAEConfig.from_state_dict(weights), device="meta", dtype=decoder.network.dtype)
    network.load_state_dict(
        {name: tensor.to(device, network.dtype) for name, tensor in weights.items()}, assign=True
    )
    return network.eval().requires_grad_(False)
