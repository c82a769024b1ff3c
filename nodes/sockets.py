"""What travels between our nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from comfy_api.latest import io

if TYPE_CHECKING:
    from torch import Tensor

    from ..sana_video_core.streaming.state import StreamState

State = io.Custom("SANA_STATE")
TextEncoder = io.Custom("SANA_TEXT_ENCODER")  # carries a text_encoders.HostedTextEncoder
Vae = io.Custom("SANA_VAE")  # carries a vaes.HostedVae


class SocketState(NamedTuple):
    """The value of a SANA_STATE socket. ComfyUI hands one object to every consumer, and nobody writes to it.

    `tensors` are the state's own, listed once more: ComfyUI's memory accounting looks into tuples, not into
    classes.
    """

    state: StreamState
    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, state: StreamState) -> SocketState:
        return cls(state, tuple(state.tensors()))


def vae_input(**options: bool) -> io.MultiType.Input:
    """Ours, or ComfyUI's own VAE."""
    return io.MultiType.Input("vae", types=[Vae, io.Vae], **options)
