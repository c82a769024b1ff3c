"""Samples a clip of fixed length with a bidirectional model, optionally from an image as frame 0.

B batch, C channels, F latent frames, H W latent rows and columns. Source: inference_sana_video.py, flow_euler
and flow_dpm-solver samplers of the original; image-to-video: the `ltx` task (frame 0 clean, at timestep 0);
few_step: the four steps of SANA-Video 2.0, on the grid of the DPM-Solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..callbacks import Callbacks, Progress
from ..config import CLIP_SAMPLERS, GUIDANCE, check_choice
from ..errors import ChunkError, InputError
from ..shapes import LatentGrid
from ..transformer.layers import MASKED, PreparedText, TextKeys
from .clip_model import ClipModel
from .noise import draw_noise
from .schedule import dpm_sigmas, euler_sigmas
from .solvers import Velocity, sample_dpm, sample_euler, sample_few_step

Solver: TypeAlias = Callable[[Velocity, Callable[[int], Tensor], Sequence[float]], Tensor]
Guided: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (latents, timesteps) -> velocity


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSampling:
    """How a clip is denoised."""

    seed: int = 0
    steps: int = 50
    cfg: float = 6.0
    sampler: str = "dpm++"
    shift: float = 8.0
    guidance: str = "batched"  # one of GUIDANCE

    def __post_init__(self) -> None:
        check_choice("sampler", self.sampler, CLIP_SAMPLERS)
        check_choice("guidance", self.guidance, GUIDANCE)
        _ = self.sigmas  # raises for steps or a shift that are impossible
        if not self.cfg >= 1:
            raise InputError(f"cfg is {self.cfg}; it has to be at least 1 (1 is no guidance, 6 is usual).")

        if self.few_step and self.cfg != 1:
            raise InputError(
                f"cfg is {self.cfg:g}, but few_step has no guidance: what it samples was distilled with it. "
                "Set cfg to 1, or choose the 50-step model and its sampler, dpm++."
            )

    @property
    def few_step(self) -> bool:
        return self.sampler == "few_step"

    @property
    def sigmas(self) -> tuple[float, ...]:
        return SAMPLERS[self.sampler][1](self.steps, self.shift)


@torch.no_grad()
def sample_clip(
    model: ClipModel,
    positive: PreparedText,
    negative: PreparedText | None,
    grid: LatentGrid,
    latent_frames: int,
    sampling: ClipSampling,
    *,
    image: Tensor | None = None,
    batch: int = 1,
    noise: Tensor | None = None,
    callbacks: Callbacks | None = None,
) -> Tensor:
    """Clean latents [B, C, F, H, W] in model space, float32.

    `image` [1 or B, C, 1, H, W] (model space) becomes frame 0, has timestep 0 in every step, and is returned
    unchanged. `noise` [1 or B, C, F, H, W] replaces the seed's. Raises InputError for what cannot work,
    ChunkError for NaN or Inf from the model.
    """
    model.family.chunks.check_room(0, (latent_frames,))
    model.family.compression.check_clip(grid, latent_frames, batch)
    check_few_step(sampling, negative, image)
    if sampling.cfg > 1 and negative is None:
        raise InputError(
            "Guidance (cfg above 1) needs a negative prompt; an empty one will do, or set cfg to 1."
        )
    if batch < 1 or any(len(text.caption) not in (1, batch) for text in (positive, negative or positive)):
        raise InputError(
            f"A batch of {batch} was asked for; "
            "it has to be at least 1, with one prompt for all or one for each."
        )
    size = (batch, model.config.channels, latent_frames, *grid)
    check_latents("The noise", noise, size)
    check_latents("The image for frame 0", image, (*size[:2], 1, *grid))

    def draw(number: int) -> Tensor:
        drawn = noise if number == 0 else None
        if drawn is None:
            how = {"batch": batch, "channels": model.config.channels, "grid": grid}
            drawn = draw_noise(sampling.seed, 0, latent_frames, number, **how).contiguous()
        drawn = drawn.to(model.device, torch.float32).expand(batch, -1, -1, -1, -1)
        return drawn if image is None else drawn[:, :, 1:]

    if image is not None:
        image = image.to(model.device, torch.float32).expand(batch, -1, -1, -1, -1)
    guided = _guided(model, positive, negative, sampling, batch)
    velocity = _velocity(guided, image, callbacks or Callbacks(), sampling.steps)
    x = SAMPLERS[sampling.sampler][0](velocity, draw, sampling.sigmas)
    return x if image is None else torch.cat([image, x], dim=2)


def _from_first(solver: Callable[[Velocity, Tensor, Sequence[float]], Tensor]) -> Solver:
    """A solver that draws noise once."""
    return lambda velocity, draw, sigmas: solver(velocity, draw(0), sigmas)


# a solver and its grid for each of CLIP_SAMPLERS
SAMPLERS: dict[str, tuple[Solver, Callable[[int, float], tuple[float, ...]]]] = {
    "dpm++": (_from_first(sample_dpm), dpm_sigmas),
    "euler": (_from_first(sample_euler), euler_sigmas),
    "few_step": (sample_few_step, dpm_sigmas),
}


def check_few_step(sampling: ClipSampling, negative: PreparedText | None, image: Tensor | None) -> None:
    """Raises InputError for what few_step cannot do."""
    if sampling.few_step and negative is not None:
        raise InputError(
            "few_step has no guidance, so a negative prompt has no effect: leave it out, or choose the "
            "50-step model."
        )
    if sampling.few_step and image is not None:
        raise InputError(
            "few_step makes clips from text alone: it was distilled without pictures. "
            "Leave out the image, or choose the 50-step model, which animates one."
        )


def check_latents(what: str, tensor: Tensor | None, size: tuple[int, ...]) -> None:
    """Raises InputError for another shape than `size` (with a batch of 1 or its own), and for NaN or Inf."""
    if tensor is None:
        return
    if tuple(tensor.shape) not in (size, (1, *size[1:])):
        raise InputError(
            f"{what} has the shape {list(tensor.shape)}; it has to be {list(size)} (batch may be 1): "
            "batch, channels, latent frames, rows, columns."
        )
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{what} holds NaN or Inf, so nothing can be made from it. Make it again.")


def _guided(
    model: ClipModel,
    positive: PreparedText,
    negative: PreparedText | None,
    sampling: ClipSampling,
    batch: int,
) -> Guided:
    """velocity(latents, timesteps) under guidance: v = v_uncond + cfg * (v_cond - v_uncond)."""
    if sampling.cfg == 1 or negative is None:
        return lambda x, t: model(x, t, positive)

    def sequential(x: Tensor, t: Tensor) -> Tensor:
        uncond = model(x, t, negative)
        return uncond + sampling.cfg * (model(x, t, positive) - uncond)

    if sampling.guidance == "sequential":
        return sequential
    both = _stacked(negative, positive, batch)

    def batched(x: Tensor, t: Tensor) -> Tensor:
        uncond, cond = model(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return uncond + sampling.cfg * (cond - uncond)

    return batched


def _stacked(first: PreparedText, second: PreparedText, batch: int) -> PreparedText:
    """Two prompts as one batch of 2 * `batch`; the shorter one is padded, and its padding masked."""
    length = max(first.caption.shape[1], second.caption.shape[1])
    texts = [_padded(text, length, batch) for text in (first, second)]
    captions, blocks, biases = zip(*texts, strict=True)
    pairs = (TextKeys(*map(torch.cat, zip(*pair, strict=True))) for pair in zip(*blocks, strict=True))
    return PreparedText(torch.cat(captions), tuple(pairs), torch.cat(biases))


def _padded(text: PreparedText, length: int, batch: int) -> tuple[Tensor, tuple[TextKeys, ...], Tensor]:
    missing = length - text.caption.shape[1]

    def longer(x: Tensor, value: float = 0.0) -> Tensor:
        """x [1 or B, …, L, size] -> [B, …, length, size]."""
        return F.pad(x, (0, 0, 0, missing), value=value).expand(batch, *[-1] * (x.ndim - 1))

    bias = (
        text.caption.new_zeros(len(text.caption), 1, 1, text.caption.shape[1])
        if text.bias is None
        else text.bias
    )
    bias = longer(bias.transpose(2, 3), MASKED).transpose(2, 3)
    blocks = tuple(TextKeys(*(longer(x) for x in block)) for block in text.blocks)
    return longer(text.caption), blocks, bias


def _timesteps(x: Tensor, sigma: float, image: Tensor | None) -> Tensor:
    """Timesteps [B], or [B, F] with 0 for frame 0 if that is an image."""
    if image is None:
        return torch.full((len(x),), 1000 * sigma, device=x.device)
    timesteps = torch.full((len(x), x.shape[2] + 1), 1000 * sigma, device=x.device)
    timesteps[:, 0] = 0
    return timesteps


def _velocity(guided: Guided, image: Tensor | None, callbacks: Callbacks, steps: int) -> Velocity:
    """The guided velocity as solvers call it: with the image in front, cancellable, checked, reported."""
    done = 0

    def velocity(x: Tensor, sigma: float) -> Tensor:
        nonlocal done
        callbacks.check(f"at step {done + 1} of {steps}")
        latents = x if image is None else torch.cat([image, x], dim=2)
        v = guided(latents, _timesteps(x, sigma, image))
        if image is not None:
            v = v[:, :, 1:]
        if not bool(torch.isfinite(v).all()):
            raise ChunkError(
                f"The model returned NaN or Inf at step {done + 1} of {steps}. "
                "Try bfloat16 or float32, or without LoRAs."
            )
        done += 1
        callbacks.progress(Progress(1, 1, done, steps, x - sigma * v))
        return v

    return velocity
