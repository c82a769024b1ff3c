"""The stream: encode prompts, start, prime, sample chunks. Nodes pass the past on as a SANA_STATE."""

from __future__ import annotations

from comfy_api.latest import io

from ..sana_video_core.config import PROMPT_CHANGES, STREAM_RULES, STREAM_SAMPLERS
from . import checks
from .help import schema
from .sockets import SocketState, State, TextEncoder


class SanaVideoTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoTextEncode",
            "text",
            inputs=[
                io.MultiType.Input("text_encoder", types=[TextEncoder, io.Clip]),
                io.String.Input("text", multiline=True, dynamic_prompts=True),
                io.Int.Input("motion_score", default=10, min=0, max=100),
                io.Boolean.Input("instruction", default=True, advanced=True),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
            search_aliases=["prompt", "clip text encode", "motion score"],
        )

    @classmethod
    def execute(cls, text_encoder, text, motion_score, instruction) -> io.NodeOutput:
        from ..bridge.text_encoders import encode

        return io.NodeOutput(encode(text_encoder, text, motion_score, instruction))


class SanaVideoStart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoStart",
            "stream",
            inputs=[
                io.Model.Input("model"),
                io.Int.Input("width", default=832, min=16, max=4096, step=16),
                io.Int.Input("height", default=480, min=16, max=4096, step=16),
                io.Int.Input("batch_size", default=1, min=1, max=16),
                io.Int.Input(
                    "window", default=0, min=0, max=checks.MOST_CHUNKS, optional=True, advanced=True
                ),
            ],
            outputs=[State.Output(display_name="state")],
            search_aliases=["sana", "empty latent video", "begin", "new stream"],
        )

    @classmethod
    def validate_inputs(cls, width, height) -> bool | str:
        return checks.size(width, height)

    @classmethod
    def execute(cls, model, width, height, batch_size, window=0) -> io.NodeOutput:
        from ..bridge.stream_model import HostedModel
        from ..sana_video_core.streaming.stream import start

        back = window or None  # 0: the whole past
        state = start(HostedModel(model), height=height, width=width, batch=batch_size, window=back)
        return io.NodeOutput(SocketState.of(state))


class SanaVideoPrime(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoPrime",
            "stream",
            inputs=[
                io.Model.Input("model"),
                io.Vae.Input("vae"),
                io.Conditioning.Input("positive"),
                State.Input("state"),
                io.Image.Input("image", optional=True),
                io.Video.Input("video", optional=True),
            ],
            outputs=[State.Output(display_name="state")],
            search_aliases=["image to video", "i2v", "video to video", "v2v", "start image"],
        )

    @classmethod
    def execute(cls, model, vae, positive, state, image=None, video=None) -> io.NodeOutput:
        from ..bridge.sampling import prime_with

        return io.NodeOutput(SocketState.of(prime_with(model, vae, positive, state.state, image, video)))


class SanaVideoBlockSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoBlockSampler",
            "stream",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                State.Input("state"),
                io.Int.Input("chunks", default=1, min=1, max=checks.MOST_CHUNKS),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                io.Int.Input("steps", default=4, min=1, max=1000, advanced=True),
                io.Combo.Input(
                    "sampler", options=[*STREAM_SAMPLERS], default=STREAM_SAMPLERS[0], advanced=True
                ),
                io.Combo.Input("on_prompt_change", options=[*PROMPT_CHANGES], default=PROMPT_CHANGES[0]),
                io.Combo.Input(
                    "rule", options=[*STREAM_RULES], default=STREAM_RULES[0], optional=True, advanced=True
                ),
                io.Boolean.Input("store", default=False, optional=True, advanced=True),
            ],
            outputs=[
                io.Latent.Output(display_name="latent"),
                State.Output(display_name="state"),
                io.Int.Output(display_name="frames"),
            ],
            search_aliases=[
                *("sana", "longsana", "longlive", "long video", "extend", "continue", "next shot"),
                *("loop video", "video continuation", "stream", "infinite video", "autoregressive"),
            ],
        )

    @classmethod
    def validate_inputs(cls, chunks) -> bool | str:
        return checks.chunks(chunks)

    @classmethod
    def execute(
        cls,
        model,
        positive,
        state,
        chunks,
        seed,
        steps,
        sampler,
        on_prompt_change,
        rule=STREAM_RULES[0],
        store=False,
    ) -> io.NodeOutput:
        from ..bridge.sampling import extend_with, latents_since

        options = {"seed": seed, "steps": steps, "sampler": sampler, "rule": rule, "store": store}
        options |= {"on_prompt_change": on_prompt_change}
        after = extend_with(model, positive, state.state, chunks, **options)
        return io.NodeOutput(latents_since(state.state, after), SocketState.of(after), after.frames)
