"""The fake ComfyUI's rules against the real one's: the same toy nodes, the same prompts."""

import json
from copy import deepcopy

import pytest
from comfyui_sana_video.sana_video_core.errors import SanaVideoError
from comfyui_sana_video.standalone.engine.executor import Executor
from support.comfyui import needs_comfyui
from support.prompts import NO_BLOCK, RUNS, VALIDATION, node, start

pytestmark = needs_comfyui


def test_object_info(server, toy_classes):
    real = server.ask("/object_info")[1]
    for name, toy in toy_classes.items():
        assert json.loads(json.dumps(toy.GET_NODE_INFO_V1())) == real[name], name


@pytest.mark.parametrize("name", VALIDATION)
def test_verdict(server, name):
    prompt, outputs, problems = deepcopy(VALIDATION[name])
    status, reply = server.ask("/prompt", {"prompt": prompt})
    assert (status == 200) == bool(outputs), reply
    if not name.startswith("link to"):  # there the real one only reports an exception
        assert set(reply["node_errors"]) == set(problems)


@pytest.mark.parametrize("name", RUNS)
def test_what_is_known_and_what_runs(server, name, toy_classes):
    other = {"x": start(seed=99), "y": node("ToyShow", value=["x", 0])}
    server.ask("/prompt", {"prompt": other})  # empties the cache
    ours = Executor(toy_classes)
    for prompt, known, ran in deepcopy(RUNS[name]):
        events = []
        ours.tell = lambda event, data, events=events: events.append((event, data))
        run = server.run(deepcopy(prompt))
        if "twins run once" in name:  # either of them
            theirs, expected = (sorted(prompt[n]["class_type"] for n in ids) for ids in (run.ran, ran))
            assert theirs == expected
        else:
            assert (run.cached, set(run.ran)) == (known, ran)
        shown = json.loads(json.dumps(ours.run(prompt)))
        assert shown == run.shown


def test_blocking_without_a_value_is_an_error(server, toy_classes):
    """IndexError in 0.33, None in 0.29, our error here: block_execution needs a value per linked output."""
    nothing = {"text": ["None"]}
    assert server.run(deepcopy(NO_BLOCK)).shown.get("show", nothing) == nothing
    with pytest.raises(SanaVideoError, match="gave no output 0"):
        Executor(toy_classes).run(deepcopy(NO_BLOCK))
