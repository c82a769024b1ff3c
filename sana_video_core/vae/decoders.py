"""The networks that decode latents: whole VAEs, or a draft in the place of one."""

from typing import TypeAlias

from .ltx_vae import LtxVAE
from .tiny_decoder import TinyDecoder
from .wan_vae import WanVAE

VideoVAE: TypeAlias = WanVAE | LtxVAE
VideoDecoder: TypeAlias = VideoVAE | TinyDecoder
