"""The few nodes of ComfyUI itself that our workflow files use.

Names and orders are ComfyUI's, so that one file runs in both.
"""

import hashlib
import json
import os
from contextlib import contextmanager
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl, Types, io, ui

from ...sana_video_core.errors import FileError, SanaVideoError
from ...sana_video_core.files.atomic import atomic_path, written
from ...sana_video_core.files.claims import first_free
from ...sana_video_core.files.image_reader import opened_image, upright
from ...sana_video_core.files.places import is_file

# Others that our workflows contain and only ComfyUI runs. The page shows them, so that those files open here.
SHOWN = json.loads((Path(__file__).parent / "core_nodes.json").read_text(encoding="utf-8"))["nodes"]
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class LoadImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        _, _, files = next(
            os.walk(folder_paths.get_input_directory()), ("", [], [])
        )  # none where it may not look
        names = [name for name in sorted(files) if Path(name).suffix.lower() in PICTURES]
        image = io.Combo.Input("image", options=names, upload=io.UploadType.image)
        outputs = [io.Image.Output(), io.Mask.Output()]
        return io.Schema(node_id="LoadImage", category="image", inputs=[image], outputs=outputs)

    @classmethod
    def validate_inputs(cls, image):
        try:
            known = is_file(folder_paths.get_annotated_filepath(image))
        except (FileError, ValueError) as error:  # it may not be looked at, or lies outside
            return str(error)
        return known or f"there is no picture “{image}” in {folder_paths.get_input_directory()}"

    @classmethod
    def fingerprint_inputs(cls, image):
        return hashlib.sha256(Path(folder_paths.get_annotated_filepath(image)).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, image):
        """IMAGE [1, H, W, 3] in 0..1, MASK [1, H, W], 1 where transparent; 64 x 64 zeros without alpha."""
        with opened_image(folder_paths.get_annotated_filepath(image)) as file:
            picture = upright(file, f"“{image}”")
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]
        mask = 1 - pixels[..., 3] if picture.mode == "RGBA" else torch.zeros(1, 64, 64)
        return io.NodeOutput(pixels[..., :3].clone(), mask)


class CreateVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [
            io.Image.Input("images"),
            io.Float.Input("fps", default=30.0, min=1.0, max=120.0, step=1.0),
            io.Audio.Input("audio", optional=True),
            io.Int.Input("bit_depth", optional=True, default=8, min=8, max=10, step=2),
        ]
        outputs = [io.Video.Output()]
        return io.Schema(node_id="CreateVideo", category="video", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, images, fps, audio=None, bit_depth=8):
        parts = Types.VideoComponents(images=images, audio=audio, frame_rate=Fraction(fps))
        return io.NodeOutput(InputImpl.VideoFromComponents(parts, bit_depth=bit_depth))


class SaveVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [
            io.Video.Input("video"),
            io.String.Input("filename_prefix", default="video/ComfyUI"),
            io.Combo.Input("format", options=Types.VideoContainer, default="auto"),
            io.Combo.Input("codec", options=Types.VideoCodec, default="auto"),
        ]
        outputs = [io.Video.Output("video")]
        return io.Schema(
            node_id="SaveVideo", category="video", inputs=inputs, outputs=outputs, is_output_node=True
        )

    @classmethod
    def validate_inputs(cls, filename_prefix):
        """Tries a file of this name: ComfyUI finds out after the work."""
        try:
            with _new_video(filename_prefix or ""):
                return True
        except (SanaVideoError, ValueError) as error:
            return str(error)

    @classmethod
    def execute(cls, video, filename_prefix, format, codec):
        metadata = (cls.hidden.extra_pnginfo or {}) | {"prompt": cls.hidden.prompt}
        with _new_video(filename_prefix, *video.get_dimensions()) as (path, subfolder):
            with atomic_path(path) as new:  # without a suffix to know the format by
                video.save_to(str(new), format="mp4", codec=codec, metadata=metadata)
            saved = ui.SavedResult(path.name, subfolder, io.FolderType.output)
        return io.NodeOutput(video, ui=ui.PreviewVideo([saved]))


@contextmanager
def _new_video(prefix, *size):
    """A new, numbered path in the output folder, and the subfolder in its name; held in the block."""
    with written(Path(prefix)):
        folder, name, first, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory(), *size
        )
    with first_free(Path(folder, f"{name}_{number:05}_.mp4") for number in count(first)) as path:
        yield path, subfolder


NODES = [LoadImage, CreateVideo, SaveVideo]


def shown_info(name: str) -> dict[str, Any]:
    """What /object_info says of a node in SHOWN; a loader's choices are the files on disk."""
    node = SHOWN[name]
    inputs = {place: dict(entries) for place, entries in node["input"].items()}
    if "vae_name" in inputs["required"]:
        inputs["required"]["vae_name"] = [folder_paths.get_filename_list("vae")]
    order = {place: list(entries) for place, entries in inputs.items()}
    identity = {"name": name, "category": "only in ComfyUI", "python_module": "nodes", "description": ""}
    lists = {"output_is_list": [False] * len(node["output"]), "is_input_list": False, "output_node": False}
    return {**node, **identity, **lists, "input": inputs, "input_order": order}
