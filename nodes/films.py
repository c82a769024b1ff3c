"""Films from scripts."""

from __future__ import annotations

from comfy_api.latest import io, ui

from . import checks
from .help import schema

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
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
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
