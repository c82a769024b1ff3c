"""Where a film is decoded: beside the sampling, in turn with it, or on another GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_management
import torch

from ..sana_video_core.config import VAE_DEVICES
from ..sana_video_core.errors import InputError
from ..sana_video_core.films.projector import Screen
from ..sana_video_core.shapes import LatentGrid
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
    load = partial(model.load, identity.batch, identity.grid)
    if (elsewhere := _device(device, decoder.device)) != decoder.device:
        moved = moved_decoder(decoder, vae, elsewhere)
        reach = decoder_reach(moved)
        return Screen(decoder=moved, device=elsewhere, overlap=lambda: True, reach=reach, to_sample=load)
    return Screen(
        decoder=decoder,
        device=decoder.device,
        overlap=partial(_side_by_side, model, decoder, identity.grid, overlap),
        reach=decoder_reach(decoder.network),
        to_sample=load,
        to_decode=partial(decoder.load_for, identity.batch, identity.grid),
        inside=partial(device_of, decoder.patcher),
    )


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
    weights = vae.first_stage_model.state_dict()
    network = WanVAE(VAEConfig.from_state_dict(weights), device="meta", dtype=decoder.network.dtype)
    network.load_state_dict(
        {name: tensor.to(device, network.dtype) for name, tensor in weights.items()}, assign=True
    )
    return network.eval().requires_grad_(False)


def _side_by_side(model: HostedModel, decoder: HostedDecoder, grid: LatentGrid, overlap: str) -> bool:
    """Whether the VAE can decode while the transformer samples: both stay loaded, whole.

    ComfyUI fetches weights that aren't into buffers which two threads would share.
    """
    if overlap == "off" or decoder.device.type != "cuda":
        return False
    management = comfy.model_management
    patchers, needed = [model.patcher, decoder.patcher], decoder.network.memory_for(1, grid, decoder.device)
    management.load_models_gpu(patchers, memory_required=needed + SPARE)
    whole = all(not each.is_dynamic() and each.loaded_size() >= each.model_size() for each in patchers)
    free = management.get_free_memory(decoder.device)
    return whole and (overlap == "on" or free > needed + SPARE)
