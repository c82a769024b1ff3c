"""Prompts with nodes that only a page knows, as a page posts them that doesn't know them."""

from copy import deepcopy

import pytest
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.standalone.engine.levels import drawn_nodes
from comfyui_sana_video.standalone.engine.page_nodes import without_page_nodes
from comfyui_sana_video.standalone.engine.workflow_file import to_prompt
from support.prompts import chain, node, start

KNOWN = {"ToyStart", "ToyBlock", "ToyShow"}


def shown(source, **nodes):
    return {"1": start(), **nodes, "show": node("ToyShow", value=source)}


SET_GET = shown(
    ["3", 0], **{"2": node("SetNode", UNKNOWN="s", STATE=["1", 0]), "3": node("GetNode", UNKNOWN="s")}
)


@pytest.mark.parametrize(
    "prompt",
    [
        SET_GET,
        shown(["2", 0], **{"2": node("SetNode", STATE=["1", 0])}),
        shown(["2", 0], **{"2": node("Reroute", **{"": ["1", 0]})}),
        shown(["3", 0], **{"2": node("Reroute", a=["1", 0]), "3": node("Reroute (rgthree)", a=["2", 0])}),
        {**shown(["1", 0]), "2": node("Note", text="x"), "3": node("Label (rgthree)")},
    ],
)
def test_what_they_stand_for_is_linked(prompt):
    before = deepcopy(prompt)
    assert without_page_nodes(prompt, {}, KNOWN) == shown(["1", 0])
    assert to_prompt(prompt, {kind: {} for kind in KNOWN}) == shown(["1", 0])
    assert prompt == before


def test_titles_name_them_where_values_do_not():
    prompt = deepcopy(SET_GET)
    for node_id, title in (("2", "Set_s"), ("3", "Get_s")):
        del prompt[node_id]["inputs"]["UNKNOWN"]
        prompt[node_id]["_meta"] = {"title": title}
    assert without_page_nodes(prompt, {}, KNOWN) == shown(["1", 0])


def test_the_drawing_knows_classes_and_names_that_the_page_left_out():
    prompt = {
        **shown(["3", 0]),
        "2": {"inputs": {"STATE": ["1", 0]}},
        "3": {"inputs": {}},
        "4": {"inputs": {}},
    }
    nodes = [
        {"id": 2, "type": "SetNode", "widgets_values": ["s"], "inputs": [{}]},
        {"id": 3, "type": "GetNode", "widgets_values": ["s"], "outputs": [{}]},
        {"id": 4, "type": "MyLabel"},
    ]
    assert without_page_nodes(prompt, drawn_nodes({"nodes": [None, *nodes]}), KNOWN) == shown(["1", 0])
    nodes[2]["type"] = "FarAway"
    assert "4" in without_page_nodes(prompt, drawn_nodes({"nodes": nodes}), KNOWN)


def test_a_get_node_in_a_subgraph_finds_the_nearest_set_node():
    inner = [{"id": 2, "type": "GetNode", "widgets_values": ["s"], "outputs": [{}]}]
    drawn = [
        {"id": 4, "type": "SetNode", "widgets_values": ["s"], "inputs": [{}]},
        {"id": 5, "type": "sub"},
    ]
    subgraph = {"id": "sub", "nodes": inner, "links": []}
    drawing = {"nodes": drawn, "definitions": {"subgraphs": [subgraph]}}
    prompt = {"1": start(), "4": {"inputs": {"a": ["1", 0]}}, "5:2": {"inputs": {}}}
    prompt["5:3"] = node("ToyShow", value=["5:2", 0])
    found = lambda: without_page_nodes(prompt, drawn_nodes(drawing), KNOWN)["5:3"]["inputs"]  # noqa: E731
    assert found() == {"value": ["1", 0]}
    inner.append({"id": 6, "type": "SetNode", "widgets_values": ["s"], "inputs": [{}]})
    prompt |= {"5:6": {"inputs": {"a": ["5:7", 0]}}, "5:7": start()}
    assert found() == {"value": ["5:7", 0]}
    assert drawn_nodes({"nodes": [{"id": 1}]}) == {}


def test_a_get_node_without_its_set_node_gives_nothing_and_says_so(caplog):
    prompt = {**SET_GET, "3": node("GetNode", UNKNOWN="other")}
    assert without_page_nodes(prompt, {}, KNOWN)["show"]["inputs"] == {}
    assert "The Get node 3 asks for “other”" in caplog.text


def test_a_primitive_is_its_value():
    prompt = {**chain(5), "p": node("PrimitiveNode", value=7)}
    prompt["2"]["inputs"]["seed"] = ["p", 0]
    assert without_page_nodes(prompt, {}, KNOWN) == chain(7)


def test_circles_are_refused():
    prompt = shown(["2", 0], **{"2": node("Reroute", a=["3", 0]), "3": node("Reroute", a=["2", 0])})
    with pytest.raises(InputError, match=r"Reroute \(node [23]\) feeds itself in a circle"):
        without_page_nodes(prompt, {}, KNOWN)


def test_a_real_node_of_such_a_name_stays():
    assert without_page_nodes(SET_GET, {}, KNOWN | {"SetNode", "GetNode"}) == SET_GET


def test_a_value_that_is_nothing_stays():
    prompt = {**shown(["1", 0]), "note": node("Note")}
    prompt["1"]["inputs"]["text"] = None
    assert without_page_nodes(prompt, {}, KNOWN)["1"]["inputs"]["text"] is None
