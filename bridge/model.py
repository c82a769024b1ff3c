"""SANA-Video as a ComfyUI MODEL: configuration, model class, patcher. Imported when a model is loaded.

ComfyUI owns the weights: its layer classes cast, offload and patch them, its patcher moves them. All clones
of a patcher share one inner module, so don't keep that module between runs (stream_model.py asks for it in
every call).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor

from ..sana_video_core.checkpoints.checkpoint import Checkpoint, read_checkpoint
from ..sana_video_core.checkpoints.said_family import check_family
from ..sana_video_core.config import Sana2Config
from ..sana_video_core.files.fingerprint import weights_fingerprint
from .networks import HostedNetwork, module_of
from .previews import latent_format

NAME = "sana_video"  # key of our wrappers, and the image_model of our configuration
# of a token's activations, in ComfyUI's unit: measured, and planned (docs/log.md)
MEMORY, MEMORY_2 = 6.4, 8.0


class SanaVideoConfig(comfy.supported_models_base.BASE):
    """A model's configuration, as ComfyUI reads it."""

    unet_config = {"image_model": NAME}  # noqa: RUF012  ComfyUI copies it
    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012  without it, num_heads would reach our constructor
    supported_inference_dtypes = [torch.bfloat16, torch.float32]  # noqa: RUF012

    def __init__(self, checkpoint: Checkpoint) -> None:
        sizes, family = checkpoint.config, checkpoint.family
        # not the checkpoint: a configuration lives as long as the model, and would keep its tensors alive
        arguments = {
            "sizes": sizes,
            "family": family,
            "fingerprint": weights_fingerprint(checkpoint.tensors),
        }
        super().__init__({**self.unet_config, **arguments})
        self.latent_format = latent_format(family)
        self.sampling_settings = {"shift": family.shift, "multiplier": 1000}
        # ComfyUI counts latent pixels
        self.memory_usage_factor = (MEMORY_2 if isinstance(sizes, Sana2Config) else MEMORY) / sizes.patch**2


class SanaVideoModel(comfy.model_base.BaseModel):
    """Flow matching (v = noise - clean), text with its mask, and kept frames for image-to-video."""

    diffusion_model: HostedNetwork

    def __init__(self, config: SanaVideoConfig, device: Any = None) -> None:
        network = module_of(config.unet_config["sizes"])
        super().__init__(config, comfy.model_base.ModelType.FLOW, device=device, unet_model=network)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out = super().extra_conds(**kwargs)
        # CONDRegular for the text too: ComfyUI's own choice would repeat a shorter text past its mask
        sources = {
            "c_crossattn": "cross_attn",
            "attention_mask": "attention_mask",
            "denoise_mask": "denoise_mask",
        }
        values = {name: kwargs.get(source) for name, source in sources.items()}
        return out | {name: comfy.conds.CONDRegular(v) for name, v in values.items() if v is not None}

    def process_timestep(self, timestep: Tensor, x: Any = None, denoise_mask: Any = None, **_: Any) -> Tensor:
        """One timestep per latent frame [B, F], 0 where the mask keeps the frame; [B] without a mask."""
        if denoise_mask is None:
            return timestep
        return timestep.view(-1, 1) * denoise_mask.mean(dim=(1, 3, 4))

    def scale_latent_inpaint(self, sigma: Any, noise: Any, latent_image: Tensor, **_: Any) -> Tensor:
        """A kept frame is clean in every step, as in training."""
        return latent_image


def _keep_frames(
    executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Any, denoise_mask: Any = None,
    *args: Any, **kwargs: Any,
) -> Tensor:  # fmt: skip
    """Wraps a whole sampling: kept frames come out untouched, whatever a sampler's last step does."""
    samples = executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
    if denoise_mask is None:
        return samples
    return torch.where(denoise_mask.to(samples.device) == 0, latent_image.to(samples), samples)


def _choose_runner(executor: Any, model_wrap: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps a sampler's steps: by then weights and patches are in place, and hold for all passes."""
    with model_wrap.inner_model.diffusion_model.runner_chosen():
        return executor(model_wrap, *args, **kwargs)


def load_patcher(
    path: Path,
    family: str | None,
    kernels: str = "auto",
    precision: str = "full",
    disable_dynamic: bool = False,
) -> Any:
    """A MODEL of the transformer in a file; dtype and device are ComfyUI's choice.

    `kernels` is one of config.BACKENDS, `precision` one of config.PRECISIONS; what cannot run raises
    InputError. TorchCompileModel asks with `disable_dynamic` for a new module, in a patcher that moves it
    whole.
    """
    management = comfy.model_management
    if family is not None:
        check_family(path, family)
    checkpoint = read_checkpoint(path, family=family)
    device, config = management.get_torch_device(), SanaVideoConfig(checkpoint)
    supported = config.supported_inference_dtypes
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(checkpoint.tensors),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(checkpoint.tensors),
    )
    if dtype == torch.float16 and isinstance(checkpoint.config, Sana2Config):
        dtype = torch.bfloat16  # --fp16-unet, which this network can't do
    compute = management.unet_manual_cast(dtype, device, supported)
    config.unet_config["dtype"], config.manual_cast_dtype = dtype, compute
    model = SanaVideoModel(config)
    network = model.diffusion_model
    network.computes = device, compute or dtype
    network.kernels, network.precision = kernels, precision
    choice = network.kernel_choice(*network.computes)  # raises before the weights are loaded
    if not choice.triton:
        logging.getLogger("sana_video").info("SANA-Video runs in plain PyTorch: %s.", choice.reason)
    patchers = comfy.model_patcher
    patcher = (patchers.ModelPatcher if disable_dynamic else patchers.CoreModelPatcher)(
        model, load_device=device, offload_device=management.unet_offload_device()
    )
    model.load_model_weights(dict(checkpoint.tensors), "", assign=patcher.is_dynamic())
    network.requires_grad_(False)
    patcher.cached_patcher_init = (load_patcher, (path, family, kernels, precision))
    wrappers = comfy.patcher_extension.WrappersMP
    patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, NAME, _keep_frames)
    patcher.add_wrapper_with_key(wrappers.SAMPLER_SAMPLE, NAME, _choose_runner)
    return patcher
