"""Films from scripts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..sana_video_core.config import CODECS, OVERLAPS, STREAM_RULES, STREAM_SAMPLERS, VAE_DEVICES
from . import checks
from .files import new_file, subfolder_of
from .help import schema
from .sockets import SocketState, State, TextEncoder

EXAMPLE = "0:00 a fox runs through snow\n0:05 the fox stops\n0:10 cut: a frozen lake"


class SanaVideoScript(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoScript",
            "film",
            inputs=[
                io.String.Input("script", multiline=True, default=EXAMPLE, dynamic_prompts=False),
                io.Float.Input("seconds", default=15.0, min=0.1, max=36000.0, step=0.1),
                _seed(),
                io.Float.Input("fps", default=16.0, min=0.01, max=1000.0, step=0.01),
            ],
            outputs=[
                io.String.Output(display_name="script"),
                io.String.Output(display_name="plan"),
                io.Int.Output(display_name="chunks"),
                io.Float.Output(display_name="seconds"),
            ],
            search_aliases=["storyboard", "shot list", "timeline", "prompt schedule", "prompt travel"],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, script, seconds, fps) -> bool | str:
        return checks.script(script, seconds, fps)

    @classmethod
    def execute(cls, script, seconds, seed, fps) -> io.NodeOutput:
        from ..bridge.words import say
        from ..sana_video_core.films.plan import describe, script_of
        from ..sana_video_core.films.script import parse_script

        plan = parse_script(script, seconds=seconds, seed=seed, fps=fps)
        text = "\n".join(describe(plan))
        say(text)
        return io.NodeOutput(script_of(plan), text, plan.chunks, plan.seconds, ui=ui.PreviewText(text))


class SanaVideoLongVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoLongVideo",
            "film",
            inputs=[
                io.Model.Input("model"),
                io.MultiType.Input("text_encoder", types=[TextEncoder, io.Clip]),
                io.Vae.Input("vae"),
                io.String.Input("script", multiline=True, default=EXAMPLE, dynamic_prompts=False),
                io.Float.Input("seconds", default=15.0, min=0.1, max=36000.0, step=0.1),
                io.Int.Input("width", default=832, min=16, max=4096, step=16),
                io.Int.Input("height", default=480, min=16, max=4096, step=16),
                _seed(),
                io.Float.Input("fps", default=16.0, min=0.01, max=1000.0, step=0.01),
                io.String.Input("filename_prefix", default="sana_films/film"),
                io.Boolean.Input("resume", default=True),
                io.Image.Input("image", optional=True),
                io.Video.Input("video", optional=True),
                State.Input("state", optional=True),
                io.Audio.Input("audio", optional=True),
                io.Int.Input("motion_score", default=10, min=0, max=100, optional=True, advanced=True),
                io.Boolean.Input("instruction", default=True, optional=True, advanced=True),
                io.Int.Input("steps", default=4, min=1, max=1000, optional=True, advanced=True),
                _choice("sampler", STREAM_SAMPLERS),
                _choice("rule", STREAM_RULES),
                _choice("overlap", OVERLAPS),
                _choice("vae_device", VAE_DEVICES),
                _choice("codec", CODECS),
                io.Boolean.Input("any_machine", default=False, optional=True, advanced=True),
            ],
            outputs=[
                io.Video.Output(display_name="video"),
                State.Output(display_name="state"),
                io.Int.Output(display_name="frames"),
            ],
            search_aliases=[
                *("sana", "long video", "story", "movie", "text to film", "timeline", "infinite video"),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, script, seconds, fps, width, height, filename_prefix, codec=None) -> bool | str:
        return checks.film(script, seconds, fps, width, height, filename_prefix, codec)

    @classmethod
    def execute(
        cls,
        model,
        text_encoder,
        vae,
        script,
        seconds,
        width,
        height,
        seed,
        fps,
        filename_prefix,
        state=None,
        **options,
    ) -> io.NodeOutput:
        from ..bridge.films import Wish, drawing_of, film_with

        options |= {"state": state and state.state, "drawing": drawing_of(cls.hidden)}
        wish = Wish(width=width, height=height, fps=fps, **options)
        with new_file(filename_prefix, ".mp4") as path:
            after, frames = film_with(model, text_encoder, vae, script, seconds, seed, wish, path)
        saved = ui.SavedResult(path.name, subfolder_of(path), io.FolderType.output)
        video = InputImpl.VideoFromFile(str(path))
        return io.NodeOutput(video, SocketState.of(after), frames, ui=ui.PreviewVideo([saved]))


def _seed() -> Any:
    """It stays until the artist changes it: another one would be another film, not the rest of this."""
    control = io.ControlAfterGenerate.fixed
    return io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=control)


def _choice(name: str, options: tuple[str, ...]) -> Any:
    return io.Combo.Input(name, options=[*options], default=options[0], optional=True, advanced=True)
