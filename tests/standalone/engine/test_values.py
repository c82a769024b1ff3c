"""Values of a wrong kind: one sentence that names node and input, before anything runs."""

import json
import math
from copy import deepcopy

import pytest
from comfy_api.latest import io
from comfyui_sana_video.sana_video_core.errors import InputError
from comfyui_sana_video.standalone.engine.executor import Executor
from comfyui_sana_video.standalone.engine.graph import RefusedError, Validation
from comfyui_sana_video.standalone.engine.values import checked_value
from support import toy
from support.prompts import CHECKED, chain, node, shown, start

INT = io.Int.Input("count", default=1, min=0, max=100)
FLOAT = io.Float.Input("strength", default=1.0)
FREE = io.Int.Input("free")
TEXT = io.String.Input("text")
SWITCH = io.Boolean.Input("on")
LIST = io.Combo.Input("file", options=["a", "b"])
MODEL = io.Model.Input("model")
IMAGE = io.Image.Input("image", optional=True)
EITHER = io.MultiType.Input("either", types=[io.Model, io.Int])


@pytest.mark.parametrize(
    ("entry", "value", "becomes"),
    [
        (INT, "7", 7),
        (INT, 7.9, 7),  # as ComfyUI
        (INT, True, 1),
        (INT, {"__value__": 5}, 5),
        (FREE, 10**40, 10**40),
        (FLOAT, "0.5", 0.5),
        (TEXT, 5, "5"),
        (TEXT, "", ""),
        (SWITCH, 0, False),
        (LIST, "b", "b"),
        (IMAGE, None, None),
        (EITHER, 3, 3),
    ],
)
def test_a_value_becomes_what_the_node_gets(entry, value, becomes):
    converted, problem = checked_value(value, entry)
    assert (converted, type(converted), problem) == (becomes, type(becomes), "")


@pytest.mark.parametrize(
    ("entry", "value", "says"),
    [
        (INT, "x", "“count” is “x”, which is no INT"),
        (INT, None, "“count” is empty (null), which is no INT"),
        (INT, math.inf, "“count” is inf, which is no INT"),
        (INT, math.nan, "“count” is nan, which is no INT"),
        (INT, {"a": 1}, "“count” is {'a': 1}, which is no INT"),
        (INT, 101, "“count” is 101; the most is 100"),
        (INT, -(10**400), "the least is 0"),
        (FLOAT, math.nan, "“strength” is nan, which is no FLOAT"),
        (FLOAT, -math.inf, "“strength” is -inf, which is no FLOAT"),
        (FLOAT, 10**400, "which is no FLOAT"),
        (FLOAT, "1e999", "which is no FLOAT"),
        (TEXT, None, "“text” is empty (null), which is no STRING"),
        (TEXT, {"a": 1}, "which is no STRING"),
        (TEXT, {"__value__": ["a"]}, "which is no STRING"),
        (LIST, 5, "“file” is 5; choose one of: a, b"),
        (LIST, None, "“file” is empty (null); choose one of: a, b"),
        (LIST, {"a": []}, "choose one of: a, b"),
        (LIST, "z" * 500, f"“file” is “{'z' * 80}…”; choose one of: a, b"),
        (MODEL, "a.safetensors", "“model” is “a.safetensors”; connect an output of type MODEL instead"),
        (MODEL, None, "“model” is empty (null); connect"),
        (IMAGE, 5, "“image” is 5; connect"),
    ],
)
def test_a_wrong_value_is_named(entry, value, says):
    assert says in checked_value(value, entry)[1]


def test_a_node_with_its_own_check_keeps_kinds_but_not_limits():
    assert checked_value("new", LIST, limits=False) == ("new", "")
    assert checked_value(500, INT, limits=False) == (500, "")
    assert "choose one of" in checked_value(5, LIST, limits=False)[1]
    assert "no INT" in checked_value("x", INT, limits=False)[1]


@pytest.mark.parametrize("change", [{"name": 5}, {"size": "x"}, {"size": math.inf}, {"size": None}])
def test_a_nodes_own_check_is_not_asked_about_a_wrong_kind(change, toy_classes):
    with pytest.raises(RefusedError) as refused:
        Validation(shown(n=node("ToyChecked", **CHECKED | change)), toy_classes)
    (problem,) = refused.value.problems["n"]
    assert problem.startswith(tuple(f"“{name}” is " for name in change))


def test_a_check_that_fails_is_a_sentence(toy_classes, monkeypatch):
    def validate_inputs(cls, name):
        raise RuntimeError("broken")

    monkeypatch.setattr(toy.Checked, "validate_inputs", classmethod(validate_inputs))
    with pytest.raises(InputError, match=r"node n\): its inputs cannot be checked \(broken\)"):
        Validation(shown(n=node("ToyChecked", **CHECKED)), toy_classes)


@pytest.mark.parametrize("meta", [None, [], "text", {"title": None}, {"title": {"a": 1}}, {"title": ""}])
def test_a_strange_title_is_no_title(meta, toy_classes):
    prompt = {**chain(), "1": {**start(seed="x"), "_meta": meta}}
    with pytest.raises(InputError, match=r"^ToyStart \(node 1\): “seed” is “x”"):
        Validation(prompt, toy_classes)


def test_two_thousand_nodes_in_a_chain_run(toy_classes):
    prompt = chain(*(number % 100 for number in range(2000)))
    executor = Executor(toy_classes)
    shown_by_node = executor.run(deepcopy(prompt))
    assert shown_by_node["show"]["text"][0].count(",") == 2000
    prompt["2001"]["inputs"]["seed"] = 77  # the last block
    ran = []
    executor.tell = lambda event, data: ran.append(data["node"]) if event == "executing" else None
    executor.run(deepcopy(prompt))
    assert ran == ["2001", "show"]


def test_a_value_of_many_levels_that_no_node_takes(toy_classes):
    deep = json.loads('{"a":' * 900 + "1" + "}" * 900)
    prompt = {**chain(5), "1": start(nobody=deep, either=["1", 0])}
    assert Executor(toy_classes).run(prompt)["show"]["text"] == ("[1, 5]",)
    with pytest.raises(InputError, match=r"“text” is \{'a': \{'a'.*\}, which is no STRING"):
        Validation({**chain(5), "1": start(text=deep)}, toy_classes)


def test_a_node_of_two_circles_is_told_of_one(toy_classes):
    own = {"n": node("ToyOwn", state=["a", 0], any=["b", 0])}
    own |= {name: node("ToyBlock", state=["n", 0], seed=1) for name in "ab"}
    with pytest.raises(RefusedError) as refused:
        Validation(shown(**own), toy_classes)
    assert {name: len(words) for name, words in refused.value.problems.items()} == {"n": 1, "a": 1, "b": 1}


def test_a_long_circle_is_shown_in_part(toy_classes):
    prompt = chain(*[1] * 1500)
    prompt["2"]["inputs"]["state"] = ["1501", 0]
    with pytest.raises(InputError, match="in a circle") as refused:
        Validation(prompt, toy_classes)
    assert len(str(refused.value).splitlines()[0]) < 200
