"""The fake ComfyUI against the real one: equal descriptions of nodes, bit-identical results of workflows."""

import json
import shutil
from pathlib import Path

import av
import folder_paths
import numpy as np
import pytest
import torch
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state
from comfyui_sana_video.standalone.engine.executor import Executor
from comfyui_sana_video.standalone.engine.graph import load_nodes
from comfyui_sana_video.standalone.engine.strangers import core_names
from comfyui_sana_video.standalone.engine.workflow_file import apply_demo
from comfyui_sana_video.workflows.build import NAMES
from PIL import Image
from support.comfyui import ROOT, needs_comfyui

pytestmark = needs_comfyui

WORKFLOWS = [NAMES[number] for number in ("0", "1", "2", "3", "4a", "4b", "5", "8", "9")]
STATES = {NAMES["2"]: "cut", NAMES["4a"]: "today"}  # their names; the one ends in a second scene


@pytest.fixture(scope="module")
def classes():
    return load_nodes()


def test_object_info(server, classes):
    folder_paths.set_base_directory(str(server.base))
    real = server.ask("/object_info")[1]
    ours = [name for name in classes if name.startswith("SanaVideo")]
    assert len(ours) == 19
    for name in ours:
        mine, theirs = json.loads(json.dumps(classes[name].GET_NODE_INFO_V1())), real[name]
        # the one difference: ComfyUI knows the pack by the folder that it lies in
        modules = (info.pop("python_module").split(".")[0] for info in (mine, theirs))
        assert set(modules) == {"custom_nodes"}
        assert mine == theirs, name


def test_core_nodes_have_the_real_sockets(server, classes):
    real = server.ask("/object_info")[1]
    for name in [name for name in classes if not name.startswith("SanaVideo")]:
        mine, theirs = json.loads(json.dumps(classes[name].GET_NODE_INFO_V1())), real[name]
        assert {key: mine[key] for key in ("input_order", "output", "output_node")} == {
            key: theirs[key] for key in ("input_order", "output", "output_node")
        }, name


def test_table_of_core_nodes_is_true(server):
    """What workflows/build.py and its tests know about ComfyUI's own nodes."""
    real = server.ask("/object_info")[1]
    table = json.loads((ROOT / "standalone" / "engine" / "core_nodes.json").read_text(encoding="utf-8"))

    def without_tooltip(entry):
        kind, options = entry[0], entry[1] if len(entry) > 1 else {}
        return kind, {name: value for name, value in options.items() if name != "tooltip"}

    for name, known in table["nodes"].items():
        assert (known["output"], known["display_name"]) == (real[name]["output"], real[name]["display_name"])
        for place, inputs in known["input"].items():
            theirs = {key: without_tooltip(entry) for key, entry in real[name]["input"][place].items()}
            assert [*inputs] == [*theirs], "the order of widgets is part of the files"
            for key in inputs.keys() - {"image", "vae_name"}:  # files
                kind, options = theirs[key]
                if kind == "COMFY_DYNAMICCOMBO_V3":  # from 0.33 on: a choice may bring widgets of its own
                    assert [option["key"] for option in options["options"]] == inputs[key][1]["options"]
                else:
                    assert (kind, options) == without_tooltip(inputs[key])


def test_names_of_core_nodes_are_known(server):
    """A workflow's missing node is said to be ComfyUI's own by this list."""
    real = server.ask("/object_info")[1]
    own = {name for name, node in real.items() if not node["python_module"].startswith("custom_nodes")}
    assert own <= core_names()


def _prompt(name: str):
    """A workflow's API twin with the demo's models, at a small size: on a smaller, x264 varies."""
    prompt = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    apply_demo(prompt)
    for node in prompt.values():
        if node["class_type"] in ("SanaVideoStart", "SanaVideoLongVideo"):
            node["inputs"] |= {"width": 128, "height": 96}
        if node["class_type"] == "SanaVideoSampler":
            node["inputs"]["steps"] = 2
    if name == NAMES["2"]:
        (last,) = [node for node in prompt.values() if node["class_type"] == "SanaVideoDecodeStream"]
        inputs = {
            "filename_prefix": "sana_states/cut",
            "what": "everything",
            "state": last["inputs"]["state"],
        }
        prompt["states"] = {"class_type": "SanaVideoSaveState", "inputs": inputs}
    return prompt


@pytest.fixture(scope="module")
def picture(server, tmp_path_factory):
    """The fake ComfyUI's base directory; both sides have the same example.png."""
    base = tmp_path_factory.mktemp("fake")
    (base / "input").mkdir()
    x, y = np.meshgrid(np.arange(90), np.arange(60))
    Image.fromarray(np.stack([x * 2, y * 4, x + y], -1).astype(np.uint8)).save(base / "input" / "example.png")
    shutil.copy(base / "input" / "example.png", server.base / "input" / "example.png")
    return base


def _content(base: Path, shown) -> list:
    """The decoded frames of the videos that a run wrote."""
    frames = []
    for output in shown.values():
        for image in output.get("images", ()):
            path = base / image["type"] / image["subfolder"] / image["filename"]
            if path.suffix == ".mp4":
                with av.open(str(path)) as video:
                    frames += [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    return frames


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_bit_identical_in_both(server, classes, picture, name):
    assert torch.get_num_threads() == 1  # as in the server's environment
    folder_paths.set_base_directory(str(picture))
    mine = Executor(classes).run(_prompt(name))
    run = server.run(_prompt(name))
    assert run.error is None, run.error["exception_message"]
    ours, theirs = _content(picture, mine), _content(server.base, run.shown)
    assert len(ours) == len(theirs)
    assert len(ours) >= 41 or name == NAMES["4a"]
    different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not np.array_equal(a, b)]
    assert not different, f"of {len(ours)} pictures"
    if name in STATES:
        file = f"output/sana_states/{STATES[name]}_00001_.safetensors"
        mine, theirs = load_state(picture / file), load_state(server.base / file)
        assert mine.scene == theirs.scene == (name == NAMES["2"])
        assert all(torch.equal(a, b) for a, b in zip(mine.tensors(), theirs.tensors(), strict=True))
        assert mine.identity == theirs.identity


@pytest.mark.parametrize("name", [NAMES["6"], NAMES["7"]])
def test_fifty_step_workflows_run(server, picture, name):
    """With the demo's weights, nine frames and four steps."""
    prompt = _prompt(name)
    for node in prompt.values():
        if node["class_type"] == "SanaVideoEmptyLatent":
            node["inputs"] |= {"width": 64, "height": 48, "length": 9}
        if node["class_type"] == "SanaVideoSigmas":
            node["inputs"]["steps"] = 4
    run = server.run(prompt)
    assert run.error is None, run.error["exception_message"]
    assert len(_content(server.base, run.shown)) == 9


def test_every_workflow_is_refused_only_for_its_missing_files(server, picture):
    """As artists open them: only missing downloads are red. (The first needs none, and runs above.)"""
    paths = sorted((ROOT / "workflows" / "api").glob("SANA-Video*.json"))
    assert paths.pop(0).stem == WORKFLOWS[0]
    for path in paths:
        reply = server.refused(json.loads(path.read_text(encoding="utf-8")))
        errors = [error for node in json.loads(reply)["node_errors"].values() for error in node["errors"]]
        missing = {
            "model_name",
            "family",
            "encoder_name",
            "vae_name",
            "file",
        }  # family: checked with its model
        assert errors, path
        assert {error["extra_info"]["input_name"] for error in errors} <= missing, (path, errors)
