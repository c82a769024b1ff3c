"""Loaders: from a file in ComfyUI's folders to a MODEL, a text encoder, a VAE, or a MODEL with a LoRA."""

from __future__ import annotations

from comfy_api.latest import io

from ..sana_video_core.config import BACKENDS, PRECISIONS
from . import checks
from .files import LORA, TEXT_ENCODER, TRANSFORMER, VAE, check, choices, path_of
from .help import schema
from .sockets import TextEncoder


class SanaVideoModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoModelLoader",
            "loaders",
            inputs=[
                io.Combo.Input("model_name", options=choices(TRANSFORMER)),
                io.Combo.Input("family", options=checks.CHOICES, default="auto"),
                io.Combo.Input(
                    "kernels", options=[*BACKENDS], default=BACKENDS[0], optional=True, advanced=True
                ),
                io.Combo.Input(
                    "precision", options=[*PRECISIONS], default=PRECISIONS[0], optional=True, advanced=True
                ),
            ],
            outputs=[io.Model.Output(display_name="model")],
            search_aliases=[
                *("load sana", "load longsana", "load longlive", "load diffusion model", "unet loader"),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name, family=None) -> bool | str:
        return checks.model(model_name, family)

    @classmethod
    def execute(cls, model_name, family, kernels="auto", precision="full") -> io.NodeOutput:
        from ..bridge.model import load_patcher

        family = None if family == "auto" else family
        return io.NodeOutput(load_patcher(path_of(TRANSFORMER, model_name), family, kernels, precision))


class SanaVideoTextEncoderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoTextEncoderLoader",
            "loaders",
            inputs=[io.Combo.Input("encoder_name", options=choices(TEXT_ENCODER))],
            outputs=[TextEncoder.Output(display_name="text_encoder")],
            search_aliases=["gemma", "gemma 2", "clip loader", "load clip"],
        )

    @classmethod
    def validate_inputs(cls, encoder_name) -> bool | str:
        return check(TEXT_ENCODER, encoder_name)

    @classmethod
    def execute(cls, encoder_name) -> io.NodeOutput:
        from ..bridge.text_encoders import HostedTextEncoder

        return io.NodeOutput(HostedTextEncoder.load(path_of(TEXT_ENCODER, encoder_name)))


class SanaVideoVAELoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoVAELoader",
            "loaders",
            inputs=[io.Combo.Input("vae_name", options=choices(VAE))],
            outputs=[io.Vae.Output(display_name="vae")],
            search_aliases=["wan vae", "load vae", "vae loader"],
        )

    @classmethod
    def validate_inputs(cls, vae_name) -> bool | str:
        return check(VAE, vae_name)

    @classmethod
    def execute(cls, vae_name) -> io.NodeOutput:
        from ..bridge.vaes import load_vae

        return io.NodeOutput(load_vae(path_of(VAE, vae_name)))


class SanaVideoLoraLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoLoraLoader",
            "loaders",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("lora_name", options=choices(LORA)),
                io.Float.Input("strength", default=1.0, min=-100.0, max=100.0, step=0.01),
            ],
            outputs=[io.Model.Output(display_name="model")],
            search_aliases=["lora", "load lora", "peft", "adapter"],
        )

    @classmethod
    def validate_inputs(cls, lora_name) -> bool | str:
        return check(LORA, lora_name)

    @classmethod
    def execute(cls, model, lora_name, strength) -> io.NodeOutput:
        from ..bridge.lora import with_lora

        return io.NodeOutput(with_lora(model, path_of(LORA, lora_name), strength) if strength else model)
