"""The module behind a MODEL: a diffusion model with the facts that a sampler needs."""

import logging
import math
from enum import Enum
from typing import Any

from torch import nn

from . import ops

ModelType = Enum("ModelType", {"FLOW": 6})


class BaseModel(nn.Module):
    def __init__(self, model_config, model_type=ModelType.FLOW, device=None, unet_model: Any = nn.Identity):
        super().__init__()
        self.model_config, self.model_type, self.device = model_config, model_type, device
        self.latent_format, self.manual_cast_dtype = (
            model_config.latent_format,
            model_config.manual_cast_dtype,
        )
        self.memory_usage_factor = model_config.memory_usage_factor
        self.diffusion_model = unet_model(
            **model_config.unet_config, device=device, operations=ops.disable_weight_init
        ).eval()

    def get_dtype(self):
        return self.diffusion_model.dtype

    def get_dtype_inference(self):
        return self.manual_cast_dtype or self.get_dtype()

    def load_model_weights(self, sd, unet_prefix="", assign=False):
        """Removes from `sd` what it loads, as the real one does."""
        names = [name for name in sd if name.startswith(unet_prefix)]
        tensors = self.model_config.process_unet_state_dict({n[len(unet_prefix) :]: sd.pop(n) for n in names})
        missing, unknown = self.diffusion_model.load_state_dict(tensors, strict=False, assign=assign)
        if missing or unknown:
            logging.warning("Missing weights: %s; unknown weights: %s.", missing, unknown)
        return self

    def extra_conds(self, **kwargs):
        return {}

    def memory_required(self, input_shape, cond_shapes=None):
        """Bytes, guessed from the latents' area as the real one does."""
        return input_shape[0] * math.prod(input_shape[2:]) * 0.15 * self.memory_usage_factor * 2**20
