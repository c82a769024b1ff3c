"""Validation and execution. The same prompts are asked of a real ComfyUI in tests/comfy/test_toys.py."""

from copy import deepcopy

import pytest
import torch
from comfy import model_management, utils
from comfy_api.latest import io
from comfyui_sana_video.sana_video_core.errors import Cancelled, InputError, SanaVideoError
from comfyui_sana_video.standalone.engine.executor import Executor
from comfyui_sana_video.standalone.engine.graph import Validation, by_id, fits
from support import toy
from support.prompts import NO_BLOCK, RUNS, VALIDATION, chain, node, shown, start


def heard(executor, prompt):
    """(nodes whose result was known, nodes that ran, what was shown)"""
    events = []
    executor.tell = lambda event, data: events.append((event, data))
    shown_by_node = executor.run(deepcopy(prompt))
    known = next(set(data["nodes"]) for event, data in events if event == "cached")
    assert [events[0][0], events[-1][0]] == ["started", "finished"]
    return known, {data["node"] for event, data in events if event == "executing"}, shown_by_node


@pytest.mark.parametrize("name", VALIDATION)
def test_validation(name, toy_classes):
    prompt, outputs, problems = deepcopy(VALIDATION[name])
    if not outputs:
        with pytest.raises(InputError) as refused:
            Validation(prompt, toy_classes)
        assert all(
            f"(node {n})" in str(refused.value) and part in str(refused.value) for n, part in problems.items()
        )
        return
    validation = Validation(prompt, toy_classes)
    assert set(validation.outputs) == outputs
    assert set(validation.problems) == set(problems)
    assert all(part in validation.problems[node_id][0] for node_id, part in problems.items())


def test_values_are_converted_for_the_node(toy_classes):
    prompt = {"1": start(seed="7", strength="1", text=5, on=0), "show": node("ToyShow", value=["1", 1])}
    Validation(prompt, toy_classes)
    assert prompt["1"]["inputs"] == {"seed": 7, "strength": 1.0, "mode": "a", "text": "5", "on": False}


def test_two_problems_are_both_told(toy_classes):
    with pytest.raises(InputError, match="least is 0") as refused:
        Validation({**chain(), "1": start(mode="c", seed=-1)}, toy_classes)
    assert "choose one of: a, b" in str(refused.value)


@pytest.mark.parametrize(
    ("offered", "wanted", "good"),
    [
        ("A", "A", True),
        ("A", "B", False),
        ("A", "*", True),
        ("*", "B", True),
        ("A", "B, A", True),
        ("A,C", "B,C", True),
        ("A", "AB", False),
    ],
)
def test_types(offered, wanted, good):
    assert fits(offered, wanted) is good


@pytest.mark.parametrize("name", RUNS)
def test_what_is_known_and_what_runs(name, toy_classes):
    executor = Executor(toy_classes)
    for prompt, known, ran in RUNS[name]:
        assert heard(executor, prompt)[:2] == (known, ran)


def test_results_reach_the_output(toy_classes):
    assert heard(Executor(toy_classes), chain(5, 6))[2] == {"show": {"text": ("[1, 5, 6]",)}}
    assert heard(Executor(toy_classes), shown(n=node("ToyBlocks", state=["1", 0], with_value=True)))[2] == {}


def test_a_known_output_shows_its_result_again(toy_classes):
    executor = Executor(toy_classes)
    assert heard(executor, chain(5))[2] == heard(executor, chain(5))[2] != {}


def test_a_result_that_is_not_asked_for_is_let_go(toy_classes):
    executor = Executor(toy_classes)
    heard(executor, chain(5))
    heard(executor, chain(6))
    assert heard(executor, chain(5))[:2] == ({"1"}, {"2", "show"})


def test_without_a_cache_results_live_until_the_last_use(toy_classes):
    executor = Executor(toy_classes, cache="none")
    alive = []
    prompt = chain(5, 6) | {
        "b": node("ToyBlock", state=["2", 0], seed=9),
        "show2": node("ToyShow", value=["b", 0]),
    }
    prompt["unused"] = node("ToyBlock", state=["1", 0], seed=3)

    def tell(event, data):
        if event == "executing":
            alive.append((data["node"], set(executor.results)))

    executor.tell = tell
    executor.run(deepcopy(prompt))
    assert alive == [
        ("1", set()),
        ("2", {"1"}),
        ("3", {"2"}),
        ("show", {"2", "3"}),
        ("b", {"show", "2"}),
        ("show2", {"show", "b"}),
    ]
    assert heard(executor, prompt)[0] == set()


def test_lazy_inputs(toy_classes):
    for which, second, expected in (
        (1, "2", "[[1], None]"),
        (2, "2", "[None, [2]]"),
        (3, "2", "[None, None]"),
    ):
        lazy = node("ToyLazy", which=which, first=["1", 0], second=[second, 0])
        prompt = {"1": start(), "2": start(seed=2), "n": lazy, "show": node("ToyShow", value=["n", 0])}
        assert heard(Executor(toy_classes), prompt)[2]["show"] == {"text": (expected,)}


def test_asking_for_a_lazy_input_that_is_not_connected_is_an_error(toy_classes):
    with pytest.raises(SanaVideoError, match="second"):
        Executor(toy_classes).run(shown(n=node("ToyLazy", which=2, first=["1", 0])))


def test_blocking_without_a_value_is_an_error(toy_classes):
    with pytest.raises(SanaVideoError, match="gave no output 0"):
        Executor(toy_classes).run(deepcopy(NO_BLOCK))


@pytest.mark.parametrize(
    ("how", "says"), [("raise", "the toy broke"), ("write to cls", "cls.cache is written to")]
)
def test_an_error_names_the_node_and_leaves_the_results(how, says, toy_classes):
    prompt = {
        **shown(n=node("ToyFails", state=["2", 0], how=how)),
        "2": node("ToyBlock", state=["1", 0], seed=1),
    }
    prompt["n"]["_meta"] = {"title": "My node"}
    executor, events = Executor(toy_classes), []
    executor.tell = lambda event, data: events.append((event, data))
    with pytest.raises(SanaVideoError, match=r"My node \(node n\): ") as failed:
        executor.run(deepcopy(prompt))
    assert says in str(failed.value)
    assert events[-1][0] == "error"
    assert events[-1][1]["node"] == "n"
    prompt["n"] = node("ToyBlock", state=["2", 0], seed=2)
    assert heard(executor, prompt)[:2] == ({"1", "2"}, {"n", "show"})


def made(**members):
    """A node class of one output, made for a test."""

    def define_schema(cls):
        hidden = [io.Hidden.prompt, io.Hidden.unique_id]
        return io.Schema(node_id="Made", hidden=hidden, outputs=[io.Int.Output(**members.pop("output", {}))])

    return type("Made", (io.ComfyNode,), {"define_schema": classmethod(define_schema), **members})


MADE = {"m": {"class_type": "Made", "inputs": {}}, "show": node("ToyShow", value=["m", 0])}


@pytest.mark.parametrize("stop", [model_management.InterruptProcessingException, KeyboardInterrupt])
def test_an_interrupt_ends_the_run(stop, toy_classes):
    def execute(cls):
        raise stop

    with pytest.raises(Cancelled, match="Made"):
        Executor(toy_classes | {"Made": made(execute=classmethod(execute))}).run(deepcopy(MADE))


def test_a_node_runs_in_inference_mode_and_sees_what_it_asked_for(toy_classes):
    def execute(cls):
        utils.ProgressBar(3).update_absolute(2)
        assert torch.is_inference_mode_enabled()
        assert cls.hidden.prompt["m"]["class_type"] == "Made"
        assert cls.hidden.extra_pnginfo is None  # not asked for
        return (int(cls.hidden.unique_id == "m"),)

    events = []
    executor = Executor(toy_classes | {"Made": made(execute=classmethod(execute))})
    executor.tell = lambda event, data: events.append((event, data))
    assert executor.run(deepcopy(MADE), {"workflow": {}})["show"] == {"text": ("1",)}
    assert ("progress", {"node": "m", "value": 2, "max": 3, "preview": None}) in events


def test_lists_and_expansion_are_refused(toy_classes):
    with pytest.raises(InputError, match="only a real ComfyUI"):
        by_id([made(output={"is_output_list": True})], "nodes")

    def execute(cls):
        return io.NodeOutput(1, expand={})

    with pytest.raises(SanaVideoError, match="only a real ComfyUI"):
        Executor(toy_classes | {"Made": made(execute=classmethod(execute))}).run(deepcopy(MADE))


def test_a_fingerprint_that_fails_counts_as_changed(toy_classes):
    def fingerprint_inputs(cls):
        raise OSError

    def execute(cls):
        return io.NodeOutput(1)

    members = {"fingerprint_inputs": classmethod(fingerprint_inputs), "execute": classmethod(execute)}
    executor = Executor(toy_classes | {"Made": made(**members)})
    heard(executor, MADE)
    assert heard(executor, MADE)[:2] == (set(), {"m", "show"})


def test_a_bad_output_is_told_and_left_out(toy_classes):
    events = []
    executor = Executor(toy_classes, lambda event, data: events.append((event, data)))
    assert set(executor.run(deepcopy(VALIDATION["a bad output beside a good one"][0]))) == {"show"}
    assert any(event == "left out" and "the most is 100" in data["message"] for event, data in events)


def test_identical_nodes_share_one_object(toy_classes):
    toy.CALLS.clear()
    heard(Executor(toy_classes), RUNS["twins run once"][0][0])
    assert [name for name, _ in toy.CALLS].count("ToyBlock") == 1
