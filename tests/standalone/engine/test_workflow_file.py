"""Workflow files: the page's rules (drawing.py), settings, the demo set."""

import json
from copy import deepcopy

import pytest
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from comfyui_sana_video.standalone.engine.workflow_file import (
    apply_demo,
    apply_setting,
    read_workflow,
    to_prompt,
)
from support.drawing import DRAWING, PROMPT
from support.prompts import chain, node

DEMO = "demo (built in)"


@pytest.fixture(scope="module")
def info(toy_classes):
    return json.loads(json.dumps({name: toy.GET_NODE_INFO_V1() for name, toy in toy_classes.items()}))


def test_a_drawing_becomes_what_the_page_makes_of_it(info):
    assert to_prompt(DRAWING, info) == PROMPT


def changed(**nodes):
    drawing = deepcopy(DRAWING)
    for entry in drawing["nodes"]:
        entry |= nodes.get(f"n{entry['id']}", {})
    return drawing


def test_links_may_be_objects(info):
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in DRAWING["links"]]
    assert to_prompt({**DRAWING, "links": links}, info) == PROMPT


def test_values_by_name_and_missing_values(info):
    assert to_prompt(changed(n3={"widgets_values": {"seed": 77}}), info)["3"]["inputs"]["seed"] == 77
    inputs = to_prompt(changed(n1={"widgets_values": [9]}), info)["1"]["inputs"]
    assert inputs == {"seed": 9, "strength": 0.5, "mode": "a", "text": "hello", "on": True, "slider": 2}


def test_a_seed_without_control_takes_one_slot(info):
    inputs = to_prompt(changed(n1={"widgets_values": [9, 0.75, "b"]}), info)["1"]["inputs"]
    assert (inputs["seed"], inputs["strength"], inputs["mode"]) == (9, 0.75, "b")


def test_a_socket_that_is_forced_takes_no_value(info):
    info = deepcopy(info)
    info["ToyStart"]["input"]["required"]["strength"][1]["forceInput"] = True
    inputs = to_prompt(changed(n1={"widgets_values": [9, "fixed", "b"]}), info)["1"]["inputs"]
    assert (inputs["mode"], "strength" in inputs) == ("b", False)


def test_an_unknown_node_keeps_its_links(info):
    converted = to_prompt(changed(n8={"type": "KSampler"}), info)["8"]
    assert (converted["class_type"], converted["inputs"]) == ("KSampler", {"value": ["7", 1]})


def test_api_format_is_copied(info):
    prompt = chain(5)
    copied = to_prompt(prompt, info)
    assert copied == prompt
    copied["1"]["inputs"]["seed"] = 99
    assert prompt == chain(5)


def test_half_an_emoji_is_replaced(tmp_path):
    (tmp_path / "x.json").write_text(
        r'{"1": {"class_type": "A", "inputs": {"text": "\ud83e\udd8a \uD83E!"}}}'
    )
    assert read_workflow(tmp_path / "x.json")["1"]["inputs"]["text"] == "🦊 ?!"


@pytest.mark.parametrize("text", ["no json", "[1, 2]", '{"a": 1}', '"text"'])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(FileError, match="is no workflow"):
        read_workflow(tmp_path / "x.json")
    with pytest.raises(FileError, match="cannot be read"):
        read_workflow(tmp_path / "y.json")


@pytest.mark.parametrize(
    ("setting", "node_id", "name", "value"),
    [
        ("1.seed=9", "1", "seed", 9),
        ("The start.strength=0.75", "1", "strength", 0.75),
        ("ToyStart.mode=b", "1", "mode", "b"),
        ("1.text=a=b.c", "1", "text", "a=b.c"),
        ("1.on=False", "1", "on", False),
        ("2.seed=3", "2", "seed", 3),
        ("1.mode=other", "1", "mode", "other"),  # validation will say what is possible
    ],
)
def test_settings(setting, node_id, name, value, info):
    prompt = chain(5, 6)
    prompt["1"]["_meta"] = {"title": "The start"}
    apply_setting(prompt, setting, info)
    assert prompt[node_id]["inputs"][name] == value
    assert type(prompt[node_id]["inputs"][name]) is type(value)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seed=9", "is no setting"),
        ("1.seed", "is no setting"),
        ("9.seed=1", r"“9” is no node of .* ToyStart \(node 1\)"),
        ("ToyBlock.seed=1", "“ToyBlock” is 2 nodes"),
        ("1.sede=1", "no input “sede” to set; it has: seed, strength, mode, text, on, slider"),
        ("2.state=1", "no input “state” to set; it has: seed"),
        ("1.seed=many", "“many” is no INT"),
        ("1.on=perhaps", "“perhaps” is no BOOLEAN"),
    ],
)
def test_settings_that_cannot_be(setting, says, info):
    with pytest.raises(InputError, match=says):
        apply_setting(chain(5, 6), setting, info)


def test_a_choice_of_numbers_stays_a_number(info):
    info = deepcopy(info)
    info["ToyStart"]["input"]["required"]["mode"] = [[1, 2], {}]  # how old nodes write a combo
    prompt = chain()
    apply_setting(prompt, "1.mode=2", info)
    assert prompt["1"]["inputs"]["mode"] == 2


@pytest.mark.parametrize(
    ("family", "becomes"),
    [
        ("longsana_480p", "auto"),
        ("auto", "auto"),
        ("sana_video_480p", "sana_video_480p"),
        ("sana_video_720p", "sana_video_480p"),  # the demo has the VAE of 480p
    ],
)
def test_demo(family, becomes):
    prompt = {
        "1": node("SanaVideoModelLoader", model_name="a", family=family),
        "2": node("SanaVideoTextEncoderLoader", encoder_name="b"),
        "3": node("SanaVideoVAELoader", vae_name="c"),
        "4": node("SanaVideoStart", width=832, height=64),
        "5": node("SanaVideoEmptyLatent", width=["9", 0], height=480),
        "6": node("Other", width=832, vae_name="c"),
        "7": node("SanaVideoLongVideo", width=832, height=64, motion_score=10, seed=7),
        "8": node("SanaVideoTextEncode", motion_score=["9", 0]),
    }
    apply_demo(prompt)
    assert prompt["1"]["inputs"] == {"model_name": DEMO, "family": becomes}
    assert prompt["2"]["inputs"] == {"encoder_name": DEMO}
    assert prompt["3"]["inputs"] == {"vae_name": DEMO}
    assert prompt["4"]["inputs"] == {"width": 128, "height": 64}
    assert prompt["5"]["inputs"] == {"width": ["9", 0], "height": 128}
    assert prompt["6"]["inputs"] == {"width": 832, "vae_name": "c"}
    assert prompt["7"]["inputs"] == {"width": 128, "height": 64, "motion_score": 0, "seed": 7}
    assert prompt["8"]["inputs"] == {"motion_score": ["9", 0]}
