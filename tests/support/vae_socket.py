"""What bridge/ asks of the VAE on a socket: our stand-in has no more, ComfyUI's has all of it."""

import torch

ASKED = {
    "device": torch.device,
    "first_stage_model": torch.nn.Module,
    "latent_channels": int,
    "patcher": object,
    "vae_dtype": torch.dtype,
}
