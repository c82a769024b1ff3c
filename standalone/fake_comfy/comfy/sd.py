"""The VAE on a socket: our network under the attributes that this pack asks ComfyUI's for, and no others."""

import json
from typing import Any

import torch
from comfyui_sana_video.sana_video_core.vae.ltx_config import (  # pyright: ignore[reportMissingImports]
    LtxConfig,
)
from comfyui_sana_video.sana_video_core.vae.ltx_vae import LtxVAE  # pyright: ignore[reportMissingImports]
from comfyui_sana_video.sana_video_core.vae.tiny_decoder import (  # pyright: ignore[reportMissingImports]
    TinyDecoder,
)
from comfyui_sana_video.sana_video_core.vae.wan_vae import VAEConfig, WanVAE  # pyright: ignore[reportMissingImports]

from . import latent_formats, model_management, model_patcher, ops


class TAEHV(TinyDecoder):
    """ComfyUI's name for tiny decoders of all video models. It takes taew2_1 for HunyuanVideo's."""

    latent_format: Any = None
    process_in = process_out = staticmethod(lambda latents: latents)


def _network(sd, metadata):
    if "decoder.conv_in.conv.weight" in sd:
        causal = json.loads(metadata["config"])["vae"]["causal_decoder"]
        network = LtxVAE(LtxConfig.from_state_dict(sd, causal=causal), operations=ops.disable_weight_init)
        network.load_state_dict(sd)
        network.decoder.causal = causal
        return network, network.config.latent_channels
    if "decoder.22.bias" not in sd:
        network = WanVAE(VAEConfig.from_state_dict(sd), operations=ops.disable_weight_init)
        network.load_state_dict(sd)
        return network, network.config.latent_channels
    network = TAEHV("", operations=ops.disable_weight_init)
    network.load_state_dict(sd, strict=False)
    if sd["decoder.1.weight"].dtype == torch.float16:
        network.latent_format = latent_formats.HunyuanVideo
    return network, network.spec.channels


class VAE:
    def __init__(self, sd, metadata=None):
        network, self.latent_channels = _network(sd, metadata)
        self.device = model_management.vae_device()
        self.vae_dtype = model_management.vae_dtype(
            self.device, [torch.bfloat16, torch.float16, torch.float32]
        )
        self.first_stage_model = network.eval().to(self.vae_dtype)
        self.patcher = model_patcher.CoreModelPatcher(
            network, load_device=self.device, offload_device=model_management.vae_offload_device()
        )


class CLIP: ...
