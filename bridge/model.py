"""SANA-Video as a ComfyUI MODEL: configuration, model class, patcher. Imported when a model is loaded.

ComfyUI owns the weights: its layer classes cast, offload and patch them, its patcher moves them. All clones
of a patcher share one inner module, so don't keep that module between runs (stream_model.py asks for it in
every call).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor, nn

from ..sana_video_core.checkpoints.checkpoint import Checkpoint, read_checkpoint
from ..sana_video_core.checkpoints.said_family import check_family
from ..sana_video_core.config import Family, TransformerConfig
from ..sana_video_core.files.fingerprint import weights_fingerprint
from ..sana_video_core.transformer.memory import Memory
from ..sana_video_core.transformer.model import PreparedText, SanaVideo
from .previews import latent_format

Result = TypeVar("Result", covariant=True)
NAME = "sana_video"  # key of our wrappers, and the image_model of our configuration


@contextmanager
def hosted_weights(layer: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Lend the weight and bias that a ComfyUI layer would compute with: on the device, cast and patched.

    What is fetched from elsewhere is copied: ComfyUI fetches into one buffer for each of its two streams, and
    the next layer but one would overwrite it.
    """
    weights: tuple[Tensor, Tensor | None, Any] = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
    weight, bias, stream = weights
    # _v_weight: with dynamic VRAM
    stays = weight is layer.weight or weight is getattr(layer, "_v_weight", None)
    try:
        yield (weight, bias) if stays else (weight.clone(), None if bias is None else bias.clone())
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


class SanaVideoConfig(comfy.supported_models_base.BASE):
    """A model's configuration, as ComfyUI reads it."""

    unet_config = {"image_model": NAME}  # noqa: RUF012  ComfyUI copies it
    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012  without it, num_heads would reach our constructor
    sampling_settings = {"shift": 8.0, "multiplier": 1000}  # noqa: RUF012
    supported_inference_dtypes = [torch.bfloat16, torch.float32]  # noqa: RUF012
    memory_usage_factor = 1.6  # of one latent frame's activations; docs/log.md says how it was measured

    def __init__(self, checkpoint: Checkpoint) -> None:
        # not the checkpoint: a configuration lives as long as the model, and would keep its tensors alive
        arguments = {
            "sizes": checkpoint.config,
            "family": checkpoint.family,
            "fingerprint": weights_fingerprint(checkpoint.tensors),
        }
        super().__init__({**self.unet_config, **arguments})
        self.latent_format = latent_format(checkpoint.family)


class StreamCall(Protocol[Result]):
    """A stream's call of the network. ComfyUI's wrappers run around it, as around a sampler's."""

    def __call__(self, network: SanaVideo, x: Tensor, timestep: Tensor) -> Result: ...


class Velocity(NamedTuple):
    """The velocity of x, as SanaVideo.forward."""

    text: PreparedText
    memory: Memory | None
    first_frame: int

    def __call__(self, network: SanaVideo, x: Tensor, timestep: Tensor) -> Tensor:
        forward = SanaVideo.forward
        return forward(network, x, timestep, self.text, memory=self.memory, first_frame=self.first_frame)


class Absorb(NamedTuple):
    """The memory after x, as SanaVideo.absorb."""

    text: PreparedText
    memory: Memory | None
    first_frame: int
    window: int | None

    def __call__(self, network: SanaVideo, x: Tensor, timestep: Tensor) -> Memory:
        memory, first_frame, window = self[1:]
        return network.absorb(x, self.text, memory=memory, first_frame=first_frame, window=window)


class SanaVideoModule(SanaVideo):
    """The network as ComfyUI calls it. Parameter names are the original's, so LoRAs find them."""

    def __init__(
        self,
        sizes: TransformerConfig,
        family: Family,
        fingerprint: str,
        *,
        operations: Any,
        dtype: Any,
        device: Any,
        **_: Any,
    ) -> None:
        super().__init__(sizes, family, operations=operations, device=device, dtype=dtype)
        self.fingerprint, self.weights_of = fingerprint, hosted_weights
        self._made_in = dtype
        self.computes: tuple[torch.device, torch.dtype] | None = None  # set by load_patcher

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights; with dynamic VRAM a layer has none until a file's are loaded."""
        return self._made_in if self.final_layer.linear.weight is None else super().dtype

    @property
    def compute_device(self) -> torch.device:
        return self.computes[0] if self.computes else self.device

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.computes[1] if self.computes else self.dtype

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  ComfyUI's signature
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        attention_mask: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006  ComfyUI's own signature; read only
        **extra: Any,
    ) -> Any:
        """The velocity of x [B, C, F, H, W], or what `stream` returns, with the nodes' wrappers around it."""
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, attention_mask, control, transformer_options, **extra)

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Any,
        attention_mask: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
        *,
        stream: StreamCall[Any] | None = None,
        **_: Any,
    ) -> Any:
        if stream is not None:
            return stream(self, x, timestep)
        return super().forward(x, timestep, context, _mask_for(context, attention_mask))


def _mask_for(context: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask at the text's length. What ConditioningConcat appended has no mask, and is read whole."""
    if mask is None or mask.shape[-1] >= context.shape[1]:
        return mask if mask is None else mask[:, : context.shape[1]]
    return torch.nn.functional.pad(mask, (0, context.shape[1] - mask.shape[-1]), value=1)


class SanaVideoModel(comfy.model_base.BaseModel):
    """Flow matching (v = noise - clean), text with its mask, and kept frames for image-to-video."""

    diffusion_model: SanaVideoModule

    def __init__(self, config: SanaVideoConfig, device: Any = None) -> None:
        super().__init__(config, comfy.model_base.ModelType.FLOW, device=device, unet_model=SanaVideoModule)

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
