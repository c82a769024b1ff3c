"""What decodes Wan 2.1's latents: the VAE, or a draft in its place."""

from typing import TypeAlias

from .tiny_decoder import TinyDecoder
from .wan_vae import WanVAE

WanDecoder: TypeAlias = WanVAE | TinyDecoder
