"""What a family of models is, for BaseModel."""

from typing import Any

from . import latent_formats

# the real one adds these to every model whose class doesn't set its extra config to {}
UNLESS_SET = {"num_heads": -1, "num_head_channels": 64}


class BASE:
    unet_config, unet_extra_config, sampling_settings = {}, UNLESS_SET, {}
    supported_inference_dtypes, memory_usage_factor = (), 2.0
    latent_format: Any = latent_formats.LatentFormat
    manual_cast_dtype: Any = None

    def __init__(self, unet_config):
        self.unet_config: dict[str, Any] = unet_config | self.unet_extra_config
        self.latent_format = self.latent_format()

    def process_unet_state_dict(self, state_dict):
        return state_dict
