"""Latents and states to frames."""

from __future__ import annotations

from functools import partial

from comfy_api.latest import InputImpl, io

from ..sana_video_core.config import CODECS
from .files import new_file, sentence, temporary_file
from .help import schema
from .sockets import State


class SanaVideoDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoDecode",
            "decode",
            inputs=[io.Vae.Input("vae"), io.Latent.Input("latent"), State.Input("state", optional=True)],
            outputs=[io.Image.Output(display_name="images")],
            search_aliases=["vae decode", "latent to image"],
        )

    @classmethod
    def execute(cls, vae, latent, state=None) -> io.NodeOutput:
        from ..bridge.decoding import decode_images

        return io.NodeOutput(decode_images(vae, latent, state and state.state))


class SanaVideoDecodeStream(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "SanaVideoDecodeStream",
            "decode",
            inputs=[
                io.Vae.Input("vae"),
                State.Input("state"),
                io.Int.Input("from_chunk", default=0, min=0, max=9999),
                io.Float.Input("fps", default=16.0, min=0.01, max=1000.0, step=0.01),
                io.Combo.Input("codec", options=[*CODECS], default=CODECS[0], advanced=True),
                io.Int.Input("batch_row", default=0, min=0, max=15, advanced=True),
                io.Audio.Input("audio", optional=True),
            ],
            outputs=[io.Video.Output(display_name="video")],
            search_aliases=["vae decode", "create video", "save long video", "stream to file"],
        )

    @classmethod
    def validate_inputs(cls, fps=None, codec=None) -> bool | str:
        from ..sana_video_core.files.encoders import check_codec
        from ..sana_video_core.shapes import checked_fps

        known = [(checked_fps, fps), (check_codec, codec)]
        # None: linked, so not known yet
        said = [sentence(check, value) for check, value in known if value is not None]
        return next((words for words in said if words is not True), True)

    @classmethod
    def execute(cls, vae, state, from_chunk, fps, codec, batch_row, audio=None) -> io.NodeOutput:
        from ..bridge.decoding import decode_to_file

        options = {"from_chunk": from_chunk, "fps": fps, "codec": codec, "row": batch_row, "audio": audio}
        rescue = partial(new_file, "video/interrupted", ".mp4")
        path = decode_to_file(vae, state.state, temporary_file(".mp4"), rescue, **options)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)))
