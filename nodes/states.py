"""States on disk, and what a state holds."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..sana_video_core.config import STATE_PARTS
from . import checks
from .files import (
    STATES,
    check_prefix,
    new_file,
    saved_state,
    saved_states,
    sentence,
    state_prefix,
    subfolder_of,
)
from .help import schema
from .sockets import SocketState, State


class SanaVideoStateInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoStateInfo",
            "state",
            inputs=[State.Input("state")],
            outputs=[
                State.Output(display_name="state"),
                io.String.Output(display_name="report"),
                io.Int.Output(display_name="chunks"),
                io.Float.Output(display_name="seconds"),
                io.Image.Output(display_name="filmstrip"),
            ],
            search_aliases=["inspect state", "filmstrip", "state preview"],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, state) -> io.NodeOutput:
        from ..bridge.previews import filmstrip_of
        from ..bridge.words import say
        from ..sana_video_core.streaming.report import brief, report

        stream, text, strip = state.state, report(state.state), filmstrip_of(state.state)
        say("\n".join(brief(stream)))
        shown = ui.PreviewImage(strip, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(state, text, len(stream.history), stream.seconds, strip, ui=shown)


class SanaVideoSaveState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoSaveState",
            "state",
            inputs=[
                State.Input("state"),
                io.String.Input("filename_prefix", default=f"{STATES}/state"),
                io.Combo.Input("what", options=[*STATE_PARTS], default=STATE_PARTS[0], optional=True),
            ],
            outputs=[State.Output(display_name="state")],
            search_aliases=["checkpoint", "save stream", "resume later"],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix) -> bool | str:
        return filename_prefix is None or sentence(check_prefix, state_prefix(filename_prefix))

    @classmethod
    def execute(cls, state, filename_prefix, what=STATE_PARTS[0]) -> io.NodeOutput:
        from ..bridge.states import opened_by_the_page, saved_line, state_to_save
        from ..bridge.words import say
        from ..sana_video_core.errors import InputError
        from ..sana_video_core.streaming.state_file import save_state

        with new_file(state_prefix(filename_prefix), ".safetensors") as path:
            if not state.state.history:
                raise InputError("This stream is empty: there is nothing to save. Sample or prime it first.")
            saved = state_to_save(state.state, what)
            save_state(saved, path, opened_by_the_page(f"{subfolder_of(path)}/{path.name} [output]"))
        line = saved_line(path.name, saved, path.stat().st_size)
        say(line)
        return io.NodeOutput(state, ui=ui.PreviewText(line))


class SanaVideoLoadState(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoLoadState",
            "state",
            inputs=[io.Combo.Input("file", options=saved_states())],
            outputs=[State.Output(display_name="state")],
            search_aliases=["resume", "pick up again", "load stream"],
        )

    @classmethod
    def validate_inputs(cls, file) -> bool | str:
        return checks.state_file(file)

    @classmethod
    def fingerprint_inputs(cls, file) -> str:
        """Changes when the file is written again, so that it is read again."""
        status = saved_state(file).stat()
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        from ..bridge.devices import intermediate_device
        from ..sana_video_core.streaming.state_file import load_state

        return io.NodeOutput(SocketState.of(load_state(saved_state(file)).to(intermediate_device())))
