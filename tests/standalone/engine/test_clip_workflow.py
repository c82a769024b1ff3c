"""Clips without ComfyUI: workflows 8, 10 and 11 with the demo's models."""

import json

import av
import folder_paths
import pytest
from comfyui_sana_video.standalone.engine.executor import Executor
from comfyui_sana_video.standalone.engine.graph import load_nodes
from comfyui_sana_video.standalone.engine.workflow_file import apply_demo
from comfyui_sana_video.workflows.build import NAMES
from support.pack import ROOT


@pytest.mark.parametrize(("workflow", "rate"), [("8", 16), ("10", 16), ("11", 24)])
def test_from_a_prompt_to_a_file(workflow, rate, tmp_path):
    prompt = json.loads((ROOT / "workflows" / "api" / f"{NAMES[workflow]}.json").read_text(encoding="utf-8"))
    apply_demo(prompt)
    for node in prompt.values():
        if node["class_type"] == "SanaVideoEmptyLatent":
            node["inputs"] |= {"width": 48, "height": 32, "length": 9}
        elif node["class_type"] == "SanaVideoSampler":
            node["inputs"]["steps"] = 2
    folder_paths.set_base_directory(str(tmp_path))
    try:
        shown = Executor(load_nodes()).run(prompt)
    finally:
        folder_paths.set_base_directory(".")
    (saved,) = [file for output in shown.values() for file in output["images"]]
    with av.open(str(tmp_path / "output" / saved["subfolder"] / saved["filename"])) as film:
        stream = film.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (48, 32, rate)
        assert sum(1 for _ in film.decode(stream)) == 9
