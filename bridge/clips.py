"""What SANA-Video Sampler does: a whole clip by a bidirectional model, as its authors sample it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..sana_video_core.config import CLIP_SAMPLERS, GUIDANCE, Family
from ..sana_video_core.errors import InputError
from ..sana_video_core.sampling.one_shot import ClipSampling, check_few_step, check_latents, sample_clip
from ..sana_video_core.shapes import LatentGrid
from ..sana_video_core.text.prompt import Prompt
from ..sana_video_core.transformer.inputs import check_text
from ..sana_video_core.vae.statistics import to_model_space, to_vae_space
from .changes import STEP_CACHES
from .decoding import FAMILY
from .devices import device_of, intermediate_device
from .live import clip_preview
from .progress import clip_callbacks
from .stream_model import HostedModel
from .text_encoders import prompt_of

logger = logging.getLogger("sana_video")
AUTO = "auto"  # of a sampler: the family's own
SAFETY = 1.5  # of the memory for two branches at once, as ComfyUI's samplers ask for
# what nodes set on a MODEL for ComfyUI's own sampling loop -> how these nodes are called
ONLY_COMFYUI = {
    "sampler_cfg_function": "another guidance (such as RescaleCFG)",
    "sampler_pre_cfg_function": "another guidance (such as RescaleCFG)",
    "sampler_post_cfg_function": "another guidance (such as RescaleCFG)",
    "sampler_calc_cond_batch_function": "another guidance (such as RescaleCFG)",
    "model_function_wrapper": "a wrapper of the model's calls",
}


def clip_with(
    patcher: Any,
    positive: Any,
    latent: Mapping[str, Any],
    negative: Any = None,
    noise: Any = None,
    **numbers: Any,
) -> dict[str, Any]:
    """A LATENT like `latent` with a sampled clip in VAE space, as the `numbers` of `sampling_of` say.

    Where a mask keeps frame 0, that comes out untouched. Whatever cannot work raises before anything is
    loaded.
    """
    model, samples = HostedModel(patcher), latent["samples"]
    family = model.family
    _check_clip(model, samples)
    keeps = keeps_frame_0(latent)
    sampling = sampling_of(family, keeps, **numbers)
    prompts = _prompts(model, positive, negative if sampling.cfg > 1 else None, sampling, len(samples))
    image = to_model_space(samples[:, :, :1], family.vae) if keeps else None
    given = None if noise is None else noise.generate_noise(latent)
    check_few_step(sampling, None, image)
    check_latents("The frame that the mask keeps", image, (*samples.shape[:2], 1, *samples.shape[3:]))
    check_latents("The noise", given, tuple(samples.shape))
    _warn_of_unused(patcher)
    made = _sampled(model, prompts, samples.shape, sampling, image, given)
    made = to_vae_space(made, family.vae).to(intermediate_device())
    if keeps:
        made = torch.cat([samples[:, :, :1].to(made), made[:, :, 1:]], dim=2)
    return {**latent, "samples": made, FAMILY: family.name}


def _sampled(
    model: HostedModel,
    prompts: list[Prompt],
    shape: torch.Size,
    sampling: ClipSampling,
    image: Tensor | None,
    noise: Tensor | None,
) -> Tensor:
    batch, _, frames, *sides = shape
    grid, rows = LatentGrid(*sides), batch * len(prompts)
    with device_of(model.patcher), clip_preview(model.patcher, model.family) as preview:
        model.load(batch if sampling.guidance == "sequential" else rows, grid, frames)
        free = comfy.model_management.get_free_memory(model.device)
        if rows > batch and SAFETY * model.memory_for(rows, grid, frames) > free:
            sampling = replace(sampling, guidance="sequential")
        positive, *negative = (model.prepare_text(text.embeddings, text.mask) for text in prompts)
        work = clip_callbacks(sampling.steps, preview.progress)
        given = {"image": image, "noise": noise, "batch": batch, "callbacks": work}
        second = negative[0] if negative else None
        return sample_clip(model, positive, second, grid, frames, sampling, **given)


def sampling_of(
    family: Family,
    keeps_frame: bool,
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler: str,
    shift: float,
    guidance: str = GUIDANCE[0],
) -> ClipSampling:
    """How a clip is sampled; steps, cfg and shift of 0 and the sampler `AUTO` are the family's own.

    Clips from a picture have Euler steps instead of DPM-Solver++, as their authors animate pictures.
    """
    if sampler == AUTO:
        sampler = CLIP_SAMPLERS[1] if keeps_frame and family.sampler == CLIP_SAMPLERS[0] else family.sampler
    return ClipSampling(
        seed=seed,
        steps=steps or family.steps,
        cfg=cfg or family.cfg,
        sampler=sampler,
        shift=shift or family.shift,
        guidance=guidance,
    )


def _check_clip(model: HostedModel, samples: Tensor) -> None:
    """Raises InputError for a model that makes no clips, and for latents that aren't its own."""
    family = model.family
    if family.causal:
        raise InputError(
            f"{family.title} makes a video chunk by chunk: use Start SANA-Video Stream and SANA-Video Block "
            "Sampler. If this file is a bidirectional model, choose its family in Load SANA-Video Model."
        )
    channels = model.config.channels
    if samples.is_nested or samples.ndim != 5 or samples.shape[1] != channels or not samples.numel():
        shape = "several parts" if samples.is_nested else f"shape {list(samples.shape)}"
        raise InputError(
            f"Latents of {shape} were given; {family.title} makes [batch, {channels}, latent frames, rows, "
            "columns]. Connect Empty SANA-Video Latent with this model."
        )
    batch, _, frames, *grid = samples.shape
    family.chunks.check_room(0, (frames,))
    family.compression.check_clip(LatentGrid(*grid), frames, batch)


def keeps_frame_0(latent: Mapping[str, Any]) -> bool:
    """Whether the mask of a LATENT keeps its first latent frame. Raises InputError for any other mask."""
    samples, mask = latent["samples"], latent.get("noise_mask")
    frames = samples.shape[2]
    if mask is None:
        if samples.any():
            logger.warning(
                "What this latent shows isn't read: it has no mask that keeps its first frame. For a clip "
                "from a picture, connect that to Empty SANA-Video Latent."
            )
        return False
    if mask.ndim < 5:  # as ComfyUI reads it
        mask = mask.reshape(1, 1, -1, *mask.shape[-2:])
    rows = mask.movedim(2, 0).flatten(1)  # of each latent frame
    if bool((rows == 1).all()):
        return False
    first = torch.ones(frames, 1, device=rows.device)
    first[0] = 0
    if frames == 1 or len(rows) != frames or not bool((rows == first).all()):
        raise InputError(
            f"This latent has {frames} latent frames and a mask of shape {list(latent['noise_mask'].shape)}. "
            "SANA-Video Sampler can keep the first frame and makes all others, as Empty SANA-Video Latent "
            "asks for with an image and more than 1 frame. For other masks use KSampler."
        )
    return True


def _prompts(
    model: HostedModel, positive: Any, negative: Any, sampling: ClipSampling, batch: int
) -> list[Prompt]:
    """The prompt, and with guidance the negative one. Raises InputError for what this model can't read."""
    if sampling.cfg > 1 and negative is None:
        raise InputError(
            f"cfg is {sampling.cfg:g}, and guidance needs a negative prompt: connect SANA-Video Text Encode "
            "to negative (an empty text will do), or set cfg to 1."
        )
    prompts = [prompt_of(text) for text in (positive, negative) if text is not None]
    for prompt in prompts:
        check_text(prompt.embeddings, prompt.mask, model.config.caption_channels)
        if len(prompt.embeddings) not in (1, batch):
            raise InputError(
                f"{len(prompt.embeddings)} prompts do not fit a batch of {batch} clips: "
                "give one, or one for each."
            )
    return prompts


def _warn_of_unused(patcher: Any) -> None:
    """Say which changes of a MODEL do nothing here."""
    options = patcher.model_options
    unused = [words for name, words in ONLY_COMFYUI.items() if options.get(name)]
    unused += ["a step cache (EasyCache, LazyCache)"] * any(
        cache in options["transformer_options"] for cache in STEP_CACHES
    )
    unused += ["another shift (ModelSamplingSD3)"] * ("model_sampling" in patcher.object_patches)
    if unused:
        logger.warning(
            "On this MODEL, %s does nothing in SANA-Video Sampler, which has its own steps, cfg and shift. "
            "ComfyUI's SamplerCustomAdvanced with SANA-Video Sigmas heeds what nodes set.",
            " and ".join(dict.fromkeys(unused)),
        )
