"""The list of nodes. Node ids, widget order and outputs are promises: append, never reorder.

Each file holds schemas and short `execute` bodies. These import what they call when they run, so that ComfyUI
starts without waiting for a model's code.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .decode import SanaVideoDecode, SanaVideoDecodeStream
from .films import SanaVideoLongVideo, SanaVideoScript
from .loading import SanaVideoLoraLoader, SanaVideoModelLoader, SanaVideoTextEncoderLoader, SanaVideoVAELoader
from .one_shot import SanaVideoEmptyLatent, SanaVideoNoise, SanaVideoSampler, SanaVideoSigmas
from .states import SanaVideoLoadState, SanaVideoSaveState, SanaVideoStateInfo
from .streams import SanaVideoBlockSampler, SanaVideoPrime, SanaVideoStart, SanaVideoTextEncode
from .words import speaking

NODES: list[type[io.ComfyNode]] = [
    SanaVideoModelLoader,
    SanaVideoTextEncoderLoader,
    SanaVideoVAELoader,
    SanaVideoLoraLoader,
    SanaVideoTextEncode,
    SanaVideoStart,
    SanaVideoPrime,
    SanaVideoBlockSampler,
    SanaVideoStateInfo,
    SanaVideoSaveState,
    SanaVideoLoadState,
    SanaVideoDecode,
    SanaVideoDecodeStream,
    SanaVideoSigmas,
    SanaVideoEmptyLatent,
    SanaVideoNoise,
    SanaVideoScript,
    SanaVideoLongVideo,
    SanaVideoSampler,
]
for node in NODES:
    speaking(node)


class SanaVideoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
