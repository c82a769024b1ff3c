"""Three shots with the demo's models: an artist's chain, which runs in seconds."""

from __future__ import annotations

import json
from typing import Any

from comfyui_sana_video.workflows.build import NAMES
from comfyui_sana_video.workflows.scenes import BUILT_IN, DEMO_SCRIPT

from .sites import ROOT

LOADERS = ("SanaVideoModelLoader", "SanaVideoTextEncoderLoader", "SanaVideoVAELoader")


def demo_chain() -> dict[str, Any]:
    workflow = json.loads((ROOT / "workflows" / f"{NAMES['2']}.json").read_text(encoding="utf-8"))
    texts = iter(line.split(" ", 1)[1].removeprefix("keep: ") for line in DEMO_SCRIPT.splitlines())
    for node in workflow["nodes"]:
        values = node["widgets_values"]
        if node["type"] in LOADERS:
            values[0] = BUILT_IN
            node["properties"].pop("models")
        elif node["type"] == "SanaVideoStart":
            values[:2] = 128, 128
        elif node["type"] == "SanaVideoTextEncode":
            values[0] = next(texts)
        elif node["type"] == "SanaVideoBlockSampler":
            values[1] = 5  # the seed
    return workflow
