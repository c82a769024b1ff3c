"""The VAE on a socket: our network under the attributes that this pack asks ComfyUI's for, and no others."""

import torch
from comfyui_sana_video.sana_video_core.vae.wan_vae import VAEConfig, WanVAE  # pyright: ignore[reportMissingImports]

from . import model_management, model_patcher, ops


class VAE:
    def __init__(self, sd):
        network = WanVAE(VAEConfig.from_state_dict(sd), operations=ops.disable_weight_init).eval()
        network.load_state_dict(sd)
        self.device = model_management.vae_device()
        self.vae_dtype = model_management.vae_dtype(
            self.device, [torch.bfloat16, torch.float16, torch.float32]
        )
        self.first_stage_model, self.latent_channels = (
            network.to(self.vae_dtype),
            network.config.latent_channels,
        )
        self.patcher = model_patcher.CoreModelPatcher(
            network, load_device=self.device, offload_device=model_management.vae_offload_device()
        )


class CLIP: ...
