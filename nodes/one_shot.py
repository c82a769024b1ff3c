"""Clips: our own sampler, an empty latent, and what ComfyUI's samplers need: sigmas and noise."""

from __future__ import annotations

from comfy_api.latest import io

from ..sana_video_core.config import CLIP_GRIDS, CLIP_SAMPLERS, GUIDANCE, NOISE_DEVICES
from . import checks
from .help import schema


class SanaVideoSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoSigmas",
            "sampling",
            inputs=[
                io.Int.Input("steps", default=50, min=1, max=1000),
                io.Float.Input("shift", default=8.0, min=0.01, max=100.0, step=0.01),
                io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01),
                io.Combo.Input("grid", options=[*CLIP_GRIDS], default=CLIP_GRIDS[0], advanced=True),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas")],
            search_aliases=["scheduler", "basic scheduler", "flow shift"],
        )

    @classmethod
    def execute(cls, steps, shift, denoise, grid) -> io.NodeOutput:
        import torch

        from ..sana_video_core.sampling.schedule import clip_sigmas

        return io.NodeOutput(torch.tensor(clip_sigmas(steps, shift, denoise, grid)))


class SanaVideoSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoSampler",
            "sampling",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative", optional=True),
                io.Latent.Input("latent"),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                io.Int.Input("steps", default=0, min=0, max=1000),
                io.Float.Input("cfg", default=0.0, min=0.0, max=100.0, step=0.1),
                io.Combo.Input("sampler", options=["auto", *CLIP_SAMPLERS], default="auto", advanced=True),
                io.Float.Input("shift", default=0.0, min=0.0, max=100.0, step=0.01, advanced=True),
                io.Combo.Input("guidance", options=[*GUIDANCE], default=GUIDANCE[0], advanced=True),
                io.Noise.Input("noise", optional=True),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
            search_aliases=["sana", "ksampler", "text to video", "image to video", "t2v", "i2v", "720p"],
        )

    @classmethod
    def execute(cls, model, positive, latent, negative=None, noise=None, **numbers) -> io.NodeOutput:
        from ..bridge.clips import clip_with

        return io.NodeOutput(clip_with(model, positive, latent, negative, noise, **numbers))


class SanaVideoEmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoEmptyLatent",
            "sampling",
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("width", default=832, min=16, max=4096, step=16),
                io.Int.Input("height", default=480, min=16, max=4096, step=16),
                io.Int.Input("length", default=81, min=1, max=8185, step=4),
                io.Int.Input("batch_size", default=1, min=1, max=16),
                io.Vae.Input("vae", optional=True),
                io.Image.Input("image", optional=True),
            ],
            outputs=[io.Latent.Output(display_name="latent")],
            search_aliases=["empty latent video", "image to video", "i2v"],
        )

    @classmethod
    def validate_inputs(cls, width, height, length) -> bool | str:
        fits = checks.size(width, height)
        return fits if fits is not True else checks.clip_length(length)

    @classmethod
    def execute(cls, model, width, height, length, batch_size, vae=None, image=None) -> io.NodeOutput:
        from ..bridge.decoding import empty_latent

        return io.NodeOutput(empty_latent(model, width, height, length, batch_size, vae, image))


class SanaVideoNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoNoise",
            "sampling",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                io.Combo.Input("device", options=[*NOISE_DEVICES], default=NOISE_DEVICES[0]),
                io.Latent.Input("latent", optional=True),
            ],
            outputs=[io.Noise.Output(display_name="noise")],
            search_aliases=["random noise", "seed", "noise from a file"],
        )

    @classmethod
    def execute(cls, seed, device, latent=None) -> io.NodeOutput:
        from ..bridge.noise import ClipNoise

        return io.NodeOutput(ClipNoise(seed, device, latent))
