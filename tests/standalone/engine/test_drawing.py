"""Drawings as people have them, and what the page makes of them."""

import json
from copy import deepcopy

import pytest
from comfyui_sana_video.sana_video_core.errors import FileError, InputError, SanaVideoError
from comfyui_sana_video.standalone.engine import dynamic_prompts, levels
from comfyui_sana_video.standalone.engine.workflow_file import to_prompt
from support.drawing import DRAWING, PROMPT, SEED_IN, STATE, STATE_IN, box

STATE_OUT, VALUE_IN = [STATE, "INT"], lambda link: ("value", "TOY_STATE,INT", link, False)
START = [7, "fixed", 0.25, "b", "a {red|red} ball", False, 3]


@pytest.fixture(scope="module")
def info(toy_classes):
    return json.loads(json.dumps({name: toy.GET_NODE_INFO_V1() for name, toy in toy_classes.items()}))


def drawing(*nodes, links=(), **more):
    return {"nodes": list(nodes), "links": [list(link) for link in links], "version": 0.4, **more}


def inputs_of(prompt):
    return {node_id: node["inputs"] for node_id, node in prompt.items()}


def start(node_id=1, values=START):
    return box(node_id, "ToyStart", values, outputs=STATE_OUT)


def show(node_id, link):
    return box(node_id, "ToyShow", inputs=[VALUE_IN(link)])


# ------------------------------------------------------------ what hands and tools leave


def test_ids_may_be_texts(info):
    drawn = json.loads(json.dumps(DRAWING))
    for node in drawn["nodes"]:
        node["id"] = str(node["id"])
    for link in drawn["links"]:
        link[1], link[3] = str(link[1]), str(link[3])
    assert to_prompt(drawn, info) == PROMPT
    drawn["links"] = DRAWING["links"]
    assert to_prompt(drawn, info) == PROMPT


def test_holes_are_passed_over(info):
    drawn = deepcopy(DRAWING)
    drawn["links"][3:3] = [None, None]
    drawn["nodes"].insert(2, None)
    drawn |= {"definitions": None, "extra": None, "groups": None}
    drawn["nodes"][-1] |= {"widgets_values": None, "properties": None, "outputs": None}
    assert to_prompt(drawn, info) == PROMPT


@pytest.mark.parametrize(
    "definitions",
    [
        {},
        {"subgraphs": None},
        {"subgraphs": []},
        {"subgraphs": [{"id": "left-over", "nodes": [], "links": []}]},
    ],
)
def test_definitions_that_nobody_uses(definitions, info):
    assert to_prompt({**DRAWING, "definitions": definitions}, info) == PROMPT


def test_links_may_be_objects_in_any_order_or_a_table(info):
    names = ("type", "target_slot", "target_id", "origin_slot", "origin_id", "id")
    links = [dict(zip(names, reversed(link), strict=True)) for link in DRAWING["links"]]
    assert to_prompt({**DRAWING, "links": links}, info) == PROMPT
    assert to_prompt({**DRAWING, "links": {str(link["id"]): link for link in links}}, info) == PROMPT


def test_a_link_that_is_gone_leads_nowhere(info):
    drawn = drawing(start(), show(2, 77))
    assert inputs_of(to_prompt(drawn, info))["2"] == {}


@pytest.mark.parametrize(
    "change",
    [
        {"links": [[1, 2]]},
        {"links": [{"id": 1}]},
        {"links": [[1, 1, None, 2, 0, "*"]]},
        {"links": [[1, 1, float("inf"), 2, 0, "*"]]},
        {"links": [[[], 1, 0, 2, 0, "*"]]},
        {"links": 5},
        {"definitions": {"subgraphs": [{}]}},
    ],
)
def test_what_is_damaged_is_said(change, info):
    with pytest.raises(FileError, match="drawing is damaged"):
        to_prompt(drawing(start()) | change, info)


@pytest.mark.parametrize(
    "node, words",
    [
        ({"id": 1}, "Node 1 of .* is damaged: it has no type"),
        ({"id": 1, "type": 5}, "Node 1 of .* is damaged: it is of the type 5"),
        ({"type": "ToyStart"}, "Node ToyStart at place 2 of .* is damaged: it has no id"),
        ({**start(), "inputs": [None]}, r"Node 1 \(ToyStart\) of .* is damaged"),
        (
            {**start(), "inputs": [{"link": 1}]},
            r"Node 1 \(ToyStart\) of .* is damaged: 'name' is missing",
        ),
        ({**start(), "widgets_values": 5}, r"Node 1 \(ToyStart\) of .* is damaged"),
    ],
)
def test_a_damaged_node_is_named(node, words, info):
    with pytest.raises(FileError, match=words):
        to_prompt(drawing(start(7), node), info)


# ------------------------------------------------------------ nodes that only the page knows


@pytest.mark.parametrize(
    "strange",
    [
        box(90, "Note", ["hello"]),
        box(90, "MarkdownNote", ["# hello"]),
        box(90, "Label (rgthree)", title="hello"),
        box(90, "Fast Groups Bypasser (rgthree)", outputs=["*"]),
        box(90, "Bookmark (rgthree)", ["1", 1]),
        box(90, "Note Plus (mtb)", ["hello"]),
        {"id": 90, "type": "SomeLabel", "properties": {"text": "hello"}},
    ],
)
def test_labels_vanish(strange, info):
    drawn = drawing(start(), show(2, 1), strange, links=[[1, 1, 0, 2, 0, STATE]])
    assert [*to_prompt(drawn, info)] == ["1", "2"]


@pytest.mark.parametrize(
    "other",
    [
        box(90, "SomeNode"),
        box(90, "SomeLabelMaker", outputs=["IMAGE"]),
        {"id": 90, "type": "SomeLabel", "properties": {"cnr_id": "a-pack"}},
    ],
)
def test_other_unknown_nodes_stay_to_be_named(other, info):
    prompt = to_prompt(drawing(other), info)
    assert [*prompt] == ["90"]
    assert prompt["90"]["_meta"].get("cnr_id") == other["properties"].get("cnr_id")


def set_get(setter, getter, name="state", between=()):
    """Start → Set, and Get → Show."""
    return drawing(
        start(),
        box(2, setter, [name], inputs=[(STATE, STATE, 1, False)], outputs=[STATE]),
        box(3, getter, [name], outputs=[STATE]),
        show(4, 2),
        *between,
        links=[[1, 1, 0, 2, 0, STATE], [2, 3, 0, 4, 0, STATE]],
    )


@pytest.mark.parametrize(
    ("setter", "getter"),
    [
        ("SetNode", "GetNode"),
        ("easy setNode", "easy getNode"),
        ("GGSetNode", "GGGetNode"),
        ("diffus3.SetNode", "GetNode"),
    ],
)
def test_get_takes_what_set_was_given(setter, getter, info):
    prompt = to_prompt(set_get(setter, getter), info)
    assert [*prompt] == ["1", "4"]
    assert prompt["4"]["inputs"] == {"value": ["1", 0]}


def test_set_and_get_know_each_other_by_title_where_they_have_no_value(info):
    drawn = set_get("SetNode", "GetNode", name="")
    drawn["nodes"][1]["title"], drawn["nodes"][2]["title"] = "Set_state", "Get_state"
    assert to_prompt(drawn, info)["4"]["inputs"] == {"value": ["1", 0]}
    drawn["nodes"][1] |= {"widgets_values": {"Constant": "s"}}
    drawn["nodes"][2] |= {"widgets_values": {"Constant": "s"}}
    assert to_prompt(drawn, info)["4"]["inputs"] == {"value": ["1", 0]}


def test_a_set_node_also_passes_on(info):
    drawn = set_get("SetNode", "GetNode")
    drawn["links"][1] = [2, 2, 0, 4, 0, STATE]
    assert to_prompt(drawn, info)["4"]["inputs"] == {"value": ["1", 0]}


def test_a_get_node_without_its_set_node_gives_nothing_and_says_so(info, caplog):
    drawn = set_get("SetNode", "GetNode")
    drawn["nodes"][2]["widgets_values"] = ["other"]
    assert to_prompt(drawn, info)["4"]["inputs"] == {}
    assert "The Get node 3 asks for “other”, but no Set node has this name" in caplog.text


def test_a_pack_may_have_a_real_node_of_such_a_name(info):
    assert [*to_prompt(set_get("SetNode", "GetNode"), info | {"SetNode": {}, "GetNode": {}})] == [
        "1",
        "2",
        "3",
        "4",
    ]


@pytest.mark.parametrize("kind", ["Reroute", "Reroute (rgthree)", "SetNode"])
def test_reroutes_in_a_circle_are_refused(kind, info):
    reroutes = [box(2, kind, inputs=[("", "*", 2, False)]), box(3, kind, inputs=[("", "*", 1, False)])]
    drawn = drawing(*reroutes, show(4, 1), links=[[1, 2, 0, 3, 0, "*"], [2, 3, 0, 2, 0, "*"]])
    with pytest.raises(InputError, match=r"Node [23] of this drawing feeds itself in a circle"):
        to_prompt(drawn, info)


def test_set_and_get_in_a_circle_are_refused(info):
    drawn = set_get("SetNode", "GetNode")
    drawn["links"][0] = [1, 3, 0, 2, 0, STATE]
    with pytest.raises(InputError, match="in a circle"):
        to_prompt(drawn, info)


def test_a_chain_of_three_thousand_reroutes(info):
    count = 3000
    reroutes = [box(100 + i, "Reroute", inputs=[("", "*", i, False)]) for i in range(count)]
    links = [[0, 1, 0, 100, 0, "*"], *([i, 99 + i, 0, 100 + i, 0, "*"] for i in range(1, count + 1))]
    drawn = drawing(start(), *reroutes, show(2, count), links=links)
    assert to_prompt(drawn, info)["2"]["inputs"] == {"value": ["1", 0]}


# ------------------------------------------------------------ widgets


def test_choices_in_a_text_are_made_where_the_node_declares_them(info, monkeypatch):
    text = lambda: to_prompt(drawing(start()), info)["1"]["inputs"]["text"]  # noqa: E731
    assert text() == "a red ball"
    plain = deepcopy(info)
    plain["ToyStart"]["input"]["required"]["text"][1]["dynamicPrompts"] = False
    assert to_prompt(drawing(start()), plain)["1"]["inputs"]["text"] == "a {red|red} ball"
    assert dynamic_prompts.declared(info["ToyStart"]["input"]["required"]["text"][1])


def test_choices_of_a_primitive_are_made_too(info):
    starts = start()
    starts["inputs"] = [{"name": "text", "type": "STRING", "link": 1, "widget": {"name": "text"}}]
    drawn = drawing(starts, box(2, "PrimitiveNode", ["{x|x} y"]), links=[[1, 2, 0, 1, 0, "STRING"]])
    assert to_prompt(drawn, info)["1"]["inputs"]["text"] == "x y"
    drawn["nodes"][1]["widgets_values"] = {"value": "{x|x} z"}
    assert to_prompt(drawn, info)["1"]["inputs"]["text"] == "x z"


def test_a_primitive_fills_widgets_only(info):
    drawn = drawing(box(2, "PrimitiveNode", [5]), show(3, 1), links=[[1, 2, 0, 3, 0, "INT"]])
    assert to_prompt(drawn, info)["3"]["inputs"] == {}


def test_a_choice_may_bring_widgets_of_its_own():
    """Save Video of ComfyUI 0.33."""
    more = {"required": {"crf": ["FLOAT", {"default": 23.0}]}}
    modes = [{"key": "auto", "inputs": {}}, {"key": "re-encode", "inputs": more}]
    inner = {"optional": {"encoding": ["COMFY_DYNAMICCOMBO_V3", {"options": modes}]}}
    codecs = [{"key": "auto", "inputs": {}}, {"key": "h264", "inputs": inner}]
    required = {
        "prefix": ["STRING", {"default": "a"}],
        "codec": ["COMFY_DYNAMICCOMBO_V3", {"options": codecs}],
        "last": ["INT", {}],
    }
    info = {"Save": {"input": {"required": required}, "display_name": "Save"}}
    inputs = lambda values: to_prompt(drawing(box(1, "Save", values)), info)["1"]["inputs"]  # noqa: E731
    assert inputs(["p", "auto", 5]) == {"prefix": "p", "codec": "auto", "last": 5}
    expected = {
        "prefix": "p",
        "codec": "h264",
        "codec.encoding": "re-encode",
        "codec.encoding.crf": 9,
        "last": 5,
    }
    assert inputs(["p", "h264", "re-encode", 9, 5]) == expected
    assert inputs([]) == {"prefix": "a", "codec": "auto", "last": 0}


def test_after_a_list_comes_its_control_and_its_filter():
    required = {"name": ["COMBO", {"options": ["a", "b"], "control_after_generate": True}], "n": ["INT", {}]}
    info = {"Pick": {"input": {"required": required}}}
    prompt = to_prompt(drawing(box(1, "Pick", ["b", "increment-wrap", "", 5])), info)
    assert prompt["1"]["inputs"] == {"name": "b", "n": 5}


def test_a_widget_of_a_kind_of_its_own_takes_its_value():
    required = {"mask": ["STRING", {"widgetType": "PAINTER"}], "width": ["INT", {}], "colour": ["COLOR", {}]}
    prompt = to_prompt(
        drawing(box(1, "Paint", ["m", 5, "#fff"])), {"Paint": {"input": {"required": required}}}
    )
    assert prompt["1"]["inputs"] == {"mask": "m", "width": 5, "colour": "#fff"}


# ------------------------------------------------------------ subgraphs


def subgraph(name, nodes, links, inputs=(), outputs=()):
    """`inputs`, `outputs`: (name, type); a subgraph's links are objects, its ends are -10 and -20."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    ends = [
        [{"id": f"{name}{i}", "name": entry, "type": kind} for i, (entry, kind) in enumerate(entries)]
        for entries in (inputs, outputs)
    ]
    drawn = [dict(zip(names, link, strict=True)) for link in links]
    return {"id": name, "name": name, "nodes": nodes, "links": drawn, "inputs": ends[0], "outputs": ends[1]}


# state, seed → two blocks; the first block's seed is a widget of the node around, the second's its own
TWO = subgraph(
    "two",
    [
        box(1, "ToyBlock", [5], inputs=[STATE_IN(1), SEED_IN(2)], outputs=STATE_OUT),
        box(2, "ToyBlock", [6], inputs=[STATE_IN(3), SEED_IN(None)], outputs=STATE_OUT),
    ],
    [[1, -10, 0, 1, 0], [2, -10, 1, 1, 1], [3, 1, 0, 2, 0], [4, 2, 0, -20, 0]],
    inputs=[("state", STATE), ("seed", "INT")],
    outputs=[("state", STATE)],
)


def with_two(values=(), mode=0, seed=None, **host):
    """Start → two → Show; `seed`: the link of the host's seed."""
    node = box(8, "two", values, mode=mode, inputs=[STATE_IN(1), SEED_IN(seed)], outputs=[STATE])
    return drawing(
        start(),
        {**node, **host},
        show(9, 2),
        links=[[1, 1, 0, 8, 0, STATE], [2, 8, 0, 9, 0, STATE], [3, 1, 1, 8, 1, "INT"]],
        definitions={"subgraphs": [TWO]},
    )


def test_a_subgraph_is_its_nodes(info):
    prompt = inputs_of(to_prompt(with_two(), info))
    assert prompt["8:1"] == {"state": ["1", 0], "seed": 5}
    assert prompt["8:2"] == {"state": ["8:1", 0], "seed": 6}
    assert prompt["9"] == {"value": ["8:2", 0]}
    assert [*prompt] == ["1", "9", "8:1", "8:2"]


def test_the_node_around_has_widgets_for_what_is_inside(info):
    assert inputs_of(to_prompt(with_two([77]), info))["8:1"]["seed"] == 77
    assert inputs_of(to_prompt(with_two(widgets_values={"seed": 78}), info))["8:1"]["seed"] == 78
    assert inputs_of(to_prompt(with_two([77], inputs=[]), info))["8:1"] == {"seed": 77}  # not all are saved
    assert inputs_of(to_prompt(with_two([77], seed=3), info))["8:1"]["seed"] == ["1", 1]
    older = {"proxyWidgets": [["2", "seed"], ["-1", "seed"]]}
    prompt = inputs_of(to_prompt(with_two([70, 71], properties=older), info))
    assert (prompt["8:1"]["seed"], prompt["8:2"]["seed"]) == (71, 70)
    assert inputs_of(to_prompt(with_two(properties=older), info))["8:2"]["seed"] == 6


def test_a_promoted_text_goes_as_typed_as_from_the_page(info):
    texts = subgraph(
        "texts",
        [{**start(), "inputs": [{"name": "text", "type": "STRING", "link": 1, "widget": {"name": "text"}}]}],
        [[1, -10, 0, 1, 0]],
        inputs=[("text", "STRING")],
    )
    drawn = drawing(box(8, "texts", ["{x|x}"]), definitions={"subgraphs": [texts]})
    assert to_prompt(drawn, info)["8:1"]["inputs"]["text"] == "{x|x}"
    drawn["nodes"][0]["widgets_values"] = []
    assert to_prompt(drawn, info)["8:1"]["inputs"]["text"] == START[4]


def test_a_muted_subgraph_is_gone_and_a_bypassed_one_passes_on(info):
    assert inputs_of(to_prompt(with_two(mode=2), info))["9"] == {}
    prompt = inputs_of(to_prompt(with_two(mode=4), info))
    assert prompt["9"] == {"value": ["1", 0]}
    assert [*prompt] == ["1", "9"]


def test_subgraphs_in_subgraphs(info):
    around = subgraph(
        "around",
        [box(4, "two", [], inputs=[STATE_IN(1), SEED_IN(2)], outputs=[STATE])],
        [[1, -10, 0, 4, 0], [2, -10, 1, 4, 1], [3, 4, 0, -20, 0]],
        inputs=[("state", STATE), ("first seed", "INT")],
        outputs=[("state", STATE)],
    )
    drawn = with_two([77], type="around")
    drawn["definitions"]["subgraphs"].append(around)
    drawn["nodes"][1]["inputs"][1]["name"] = "first seed"
    prompt = inputs_of(to_prompt(drawn, info))
    assert prompt["8:4:1"] == {"state": ["1", 0], "seed": 77}
    assert prompt["9"] == {"value": ["8:4:2", 0]}
    drawn["nodes"][1]["mode"] = 2
    assert [*to_prompt(drawn, info)] == ["1", "9"]


def test_a_widget_of_the_outermost_node_reaches_the_innermost(info):
    around = subgraph("around", [box(4, "two", [55], inputs=[STATE_IN(None), SEED_IN(None)])], [])
    outer = box(8, "around", [88], outputs=[])
    outer["properties"] = {"proxyWidgets": [["4", "seed"]]}
    drawn = drawing(outer, definitions={"subgraphs": [TWO, around]})
    assert inputs_of(to_prompt(drawn, info))["8:4:1"]["seed"] == 88
    outer["widgets_values"] = []
    assert inputs_of(to_prompt(drawn, info))["8:4:1"]["seed"] == 55


def test_two_uses_of_a_subgraph_are_two(info):
    drawn = with_two([11])
    drawn["nodes"].append(box(10, "two", [12], inputs=[STATE_IN(1), SEED_IN(None)], outputs=[STATE]))
    prompt = inputs_of(to_prompt(drawn, info))
    assert (prompt["8:1"]["seed"], prompt["10:1"]["seed"]) == (11, 12)


def test_get_inside_a_subgraph_finds_set_around_it(info):
    inner = subgraph("inner", [box(1, "GetNode", ["s"], outputs=[STATE]), show(2, 5)], [[5, 1, 0, 2, 0]])
    drawn = drawing(
        start(),
        box(2, "SetNode", ["s"], inputs=[(STATE, STATE, 1, False)]),
        box(3, "inner"),
        links=[[1, 1, 0, 2, 0, STATE]],
        definitions={"subgraphs": [inner]},
    )
    assert inputs_of(to_prompt(drawn, info))["3:2"] == {"value": ["1", 0]}
    nearer = [start(8), box(9, "SetNode", ["s"], inputs=[(STATE, STATE, 6, False)])]
    inner["nodes"] += nearer
    inner["links"].append({"id": 6, "origin_id": 8, "origin_slot": 0, "target_id": 9, "target_slot": 0})
    assert inputs_of(to_prompt(drawn, info))["3:2"] == {"value": ["3:8", 0]}


def test_a_subgraph_that_contains_itself_is_refused(info):
    drawn = with_two()
    drawn["definitions"]["subgraphs"] = [{**TWO, "nodes": [*TWO["nodes"], box(3, "two")]}]
    with pytest.raises(InputError, match="The subgraph “two” contains itself"):
        to_prompt(drawn, info)


def test_subgraphs_that_multiply_are_refused(info, monkeypatch):
    twice = [subgraph(f"s{i}", [box(1, f"s{i + 1}"), box(2, f"s{i + 1}")], []) for i in range(60)]
    with pytest.raises(SanaVideoError, match="makes more than 20,000 nodes"):
        to_prompt(drawing(box(1, "s0"), definitions={"subgraphs": twice}), info)
    assert levels.MOST_NODES == 20_000
