"""What our nodes pass to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from comfy_api.latest import io

if TYPE_CHECKING:
    from torch import Tensor

    from ..sana_video_core.streaming.state import State as AnyState

State = io.Custom("SANA_STATE")
TextEncoder = io.Custom("SANA_TEXT_ENCODER")  # carries a text_encoders.HostedTextEncoder


class SocketState(NamedTuple):
    """The value of a SANA_STATE socket. ComfyUI hands the same object to every consumer: never write to it.

    `tensors` lists the state's tensors again: ComfyUI's memory accounting looks into tuples, not classes.
    """

    state: AnyState
    tensors: tuple[Tensor, ...]

    def __repr__(self) -> str:
        """What the state holds, as Preview Any and errors show it."""
        from ..sana_video_core.streaming.report import report

        return report(self.state)

    @classmethod
    def of(cls, state: AnyState) -> SocketState:
        return cls(state, tuple(state.tensors()))
