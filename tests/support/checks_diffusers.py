"""Checks against diffusers' own classes on the same random weights. Each takes a Pack and asserts."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from support.pack import Pack, assert_close

FOLDER = tempfile.TemporaryDirectory(prefix="sana-diffusers-")  # removed when Python ends
# channels, patch, diffusers' sample size
FAMILIES = {"sana_video_480p": (16, 2, 30), "sana_video_720p": (128, 1, 22)}


@cache
def transformer(family: str):
    """A small diffusers transformer with every parameter random, and the folder where it saved itself."""
    from diffusers import SanaVideoTransformer3DModel

    channels, patch, sample_size = FAMILIES[family]
    torch.manual_seed(0)
    model = SanaVideoTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=3,
        attention_head_dim=20,
        num_layers=2,
        num_cross_attention_heads=3,
        cross_attention_head_dim=20,
        cross_attention_dim=60,
        caption_channels=24,
        mlp_ratio=3.0,
        sample_size=sample_size,
        patch_size=(1, patch, patch),
    ).eval()
    for parameter in model.parameters():
        scale = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        torch.nn.init.normal_(parameter, std=scale)
    folder = Path(FOLDER.name) / family
    model.save_pretrained(folder)
    return model, folder


def ours(pack: Pack, family: str):
    return pack.core("checkpoints.checkpoint").load_transformer(transformer(family)[1], family=family)


def _inputs(family: str, batch: int = 2, frames: int = 3):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(batch, FAMILIES[family][0], frames, 4, 6, generator=generator)
    text = torch.randn(batch, 7, 24, generator=generator)
    mask = torch.tensor([[1] * 7, [1, 1, 1, 0, 0, 0, 0]])[:batch]
    return x, text, mask


@torch.no_grad()
def _text_to_video(pack: Pack, family: str) -> None:
    x, text, mask = _inputs(family)
    t = torch.tensor([960, 140])
    expected = transformer(family)[0](x, text, t, encoder_attention_mask=mask).sample
    assert_close(ours(pack, family)(x, t, text, mask), expected, 1e-4)


def text_to_video(pack: Pack) -> None:
    _text_to_video(pack, "sana_video_480p")


def text_to_video_720p(pack: Pack) -> None:
    _text_to_video(pack, "sana_video_720p")


@torch.no_grad()
def image_to_video(pack: Pack) -> None:
    """Frame 0 at timestep 0: [B, F] here, one timestep per token there."""
    for family, (_, patch, _) in FAMILIES.items():
        x, text, mask = _inputs(family)
        t = torch.tensor([[0, 889, 889], [0, 337, 337]])
        tokens = t.repeat_interleave((4 // patch) * (6 // patch), dim=1)
        expected = transformer(family)[0](x, text, tokens, encoder_attention_mask=mask).sample
        assert_close(ours(pack, family)(x, t, text, mask), expected, 1e-4)


def grids(pack: Pack) -> None:
    """Noise levels of DPM-Solver++ and Euler, and the timesteps that the network sees."""
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    schedule, truncate = pack.core("sampling.schedule"), pack.core("transformer.positions").truncate_timestep
    for steps in (1, 2, 4, 20, 50):
        for shift in (8.0, 3.0):
            dpm = _dpm(DPMSolverMultistepScheduler, shift)
            dpm.set_timesteps(steps)
            sigmas = torch.tensor(schedule.dpm_sigmas(steps, shift), dtype=torch.float64)
            assert_close(sigmas, dpm.sigmas, 1e-5)
            seen = truncate((1000 * sigmas[:-1]).float())
            assert seen.tolist() == dpm.timesteps.tolist()
            euler = FlowMatchEulerDiscreteScheduler(shift=shift)
            euler.set_timesteps(steps)
            assert_close(torch.tensor(schedule.euler_sigmas(steps, shift)), euler.sigmas, 1e-5)


def _dpm(scheduler, shift: float):
    return scheduler(use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction")


@torch.no_grad()
def update_rules(pack: Pack) -> None:
    """Whole runs of both solvers on a velocity that depends on x and sigma."""
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    schedule, solvers = pack.core("sampling.schedule"), pack.core("sampling.solvers")
    noise = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))

    def field(x, sigma):
        return torch.tanh(x) * (1 + sigma) - 0.3 * x

    for steps in (1, 2, 5, 20):
        for scheduler, grid, update in (
            (_dpm(DPMSolverMultistepScheduler, 8.0), schedule.dpm_sigmas, solvers.sample_dpm),
            (FlowMatchEulerDiscreteScheduler(shift=8.0), schedule.euler_sigmas, solvers.sample_euler),
        ):
            scheduler.set_timesteps(steps)
            x = noise
            for i, t in enumerate(scheduler.timesteps):
                x = scheduler.step(field(x, scheduler.sigmas[i].item()), t, x, return_dict=False)[0]
            assert_close(update(field, noise, grid(steps)), x, 1e-5)


@torch.no_grad()
def whole_pipeline(pack: Pack) -> None:
    """Four steps of DPM-Solver++ at guidance 6 against diffusers' pipeline: both layouts, both guidances."""
    from diffusers import DPMSolverMultistepScheduler, SanaVideoPipeline

    one_shot = pack.core("sampling.one_shot")
    for family, (channels, patch, _) in FAMILIES.items():
        stride = 32 if patch == 1 else 8
        pipe = SanaVideoPipeline(
            None, None, _vae_stub(family), transformer(family)[0], _dpm(DPMSolverMultistepScheduler, 8.0)
        )
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(1, channels, 3, 4, 8, generator=generator)
        positive, negative = (torch.randn(1, n, 24, generator=generator) for n in (7, 7))
        masks = torch.tensor([[1, 1, 1, 1, 1, 0, 0]]), torch.tensor([[1, 1, 0, 0, 0, 0, 0]])
        expected = pipe(
            prompt_embeds=positive,
            prompt_attention_mask=masks[0],
            negative_prompt=None,
            negative_prompt_embeds=negative,
            negative_prompt_attention_mask=masks[1],
            latents=noise.clone(),
            height=4 * stride,
            width=8 * stride,
            frames=9 if patch == 2 else 17,
            num_inference_steps=4,
            guidance_scale=6.0,
            use_resolution_binning=False,
            output_type="latent",
        ).frames
        model = ours(pack, family)
        texts = model.prepare_text(positive, masks[0]), model.prepare_text(negative, masks[1])
        grid = pack.core("shapes").LatentGrid(4, 8)
        for guidance in one_shot.GUIDANCE:
            sampling = one_shot.ClipSampling(steps=4, cfg=6.0, guidance=guidance)
            out = one_shot.sample_clip(model, *texts, grid, 3, sampling, noise=noise)
            assert_close(out, expected, 1e-3 * expected.std().item())


@torch.no_grad()
def image_to_video_loop(pack: Pack) -> None:
    """Four steps with an image: their transformer with timesteps per token, their scheduler from frame 1."""
    from diffusers import DPMSolverMultistepScheduler

    theirs, model = transformer("sana_video_480p")[0], ours(pack, "sana_video_480p")
    one_shot = pack.core("sampling.one_shot")
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(1, 16, 3, 4, 6, generator=generator)
    noise, image = x.clone(), torch.randn(1, 16, 1, 4, 6, generator=generator)
    texts = torch.randn(2, 7, 24, generator=generator)  # negative, positive
    scheduler = _dpm(DPMSolverMultistepScheduler, 8.0)
    scheduler.set_timesteps(4)
    x[:, :, :1] = image
    for t in scheduler.timesteps:
        tokens = torch.tensor([[0, t, t]]).repeat_interleave(6, dim=1).expand(2, -1)
        uncond, cond = theirs(x.expand(2, -1, -1, -1, -1), texts, tokens).sample.chunk(2)
        velocity = uncond + 6 * (cond - uncond)
        x[:, :, 1:] = scheduler.step(velocity[:, :, 1:], t, x[:, :, 1:], return_dict=False)[0]
    negative, positive = (model.prepare_text(text[None]) for text in texts)
    grid, sampling = pack.core("shapes").LatentGrid(4, 6), one_shot.ClipSampling(steps=4, cfg=6.0)
    out = one_shot.sample_clip(model, positive, negative, grid, 3, sampling, noise=noise, image=image)
    assert_close(out, x, 1e-3 * x.std().item())


def _vae_stub(family: str):
    """A VAE of which the pipeline only reads the strides; nothing is decoded."""
    from diffusers import AutoencoderKLLTX2Video, AutoencoderKLWan

    if family == "sana_video_480p":
        return AutoencoderKLWan(base_dim=8, z_dim=16)
    return AutoencoderKLLTX2Video(
        latent_channels=128,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
    )


DIFFUSERS_CHECKS = (
    text_to_video,
    text_to_video_720p,
    image_to_video,
    grids,
    update_rules,
    whole_pipeline,
    image_to_video_loop,
)
