"""Workflows that hands, tools and other versions have damaged: a sentence, or they run.

`python -m pytest tests/torture/test_damaged_workflows.py --full` tries 1,000; the suite tries two. Nodes are
checked and ordered as always, but don't work.
"""

import json
import math
import random
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.standalone.engine import graph
from comfyui_sana_video.standalone.engine.executor import Executor, Result
from comfyui_sana_video.standalone.studio.prompts import read_asked

web = pytest.importorskip("aiohttp.web")

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("workflows/**/*.json"), *ROOT.glob("subgraphs/*.json")])
CASES, SHORT = 1000, 2
SECONDS = 30
STRANGE = [
    *(None, True, -1, 0, 2, 4, 1.5, 10**30, math.inf, math.nan, "", "x", "\ud800", "a" * 100_000, [], {}),
    *([None], ["2", 0], ["2", 99], ["2", -1], ["2", True], [2, 0], ["none", 0], [["2", 0], 0], [1, 2, 3]),
    *({"__value__": None}, {"__value__": [1]}, {"a": {"b": []}}, "{red|{blue|", "{" * 500, "../../x", "-10"),
    *(
        "SanaVideoStart",
        "KSampler",
        "VHS_VideoCombine",
        "SetNode",
        "GetNode",
        "Reroute",
        "Note",
        "workflow>x",
    ),
    *("PrimitiveNode", "Label (rgthree)", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"),
]


def places(value, found):
    """Every (container, key) inside."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        found.append((value, key))
        places(entry, found)
    return found


def change(workflow, chance):
    """One thing that may go wrong with any JSON."""
    container, key = chance.choice(places(workflow, []))
    others = places(workflow, [])
    what = chance.choice(["delete", "strange", "strange", "copy", "swap", "twice", "rename"])
    if what == "delete":
        del container[key]
    elif what == "strange":
        container[key] = deepcopy(chance.choice(STRANGE))
    elif what in ("copy", "swap"):
        there, name = chance.choice(others)
        if what == "swap" and deepcopy(container[key]) is not there[name]:
            there[name], container[key] = deepcopy(container[key]), deepcopy(there[name])
        else:
            container[key] = deepcopy(there[name])
    elif isinstance(container, list):
        container.insert(key, deepcopy(container[key]))
    elif what == "rename":
        container[chance.choice(["id", "link", "x", "nodes", "5"])] = container.pop(key)


def rewire(workflow, chance):
    """One thing that may go wrong with a drawing: links that lead elsewhere, nodes muted, folded, retyped."""
    nodes = [node for node in _listed(workflow, "nodes") if isinstance(node, dict)]
    links = [link for link in _listed(workflow, "links") if isinstance(link, list) and len(link) > 4]
    if not nodes or not links:
        return change(workflow, chance)
    node, link = chance.choice(nodes), chance.choice(links)
    kinds = ["Reroute", "SetNode", "GetNode", "PrimitiveNode", "easy getNode", "Reroute (rgthree)", "sub"]
    what = chance.choice(["mode", "type", "origin", "fold"])
    if what == "mode":
        node["mode"] = chance.choice([0, 2, 4])
    elif what == "type":
        node["type"] = chance.choice(kinds)
    elif what == "origin":
        link[1], link[2] = chance.choice(nodes).get("id"), chance.choice([0, 1, 2, -1])
    else:
        inside = {
            "id": "sub",
            "name": "sub",
            **deepcopy({key: workflow.get(key) for key in ("nodes", "links")}),
        }
        inside |= {"inputs": [{"name": "state"}, {"name": "model"}], "outputs": [{"name": "state"}]}
        workflow["definitions"] = {"subgraphs": [inside]}
        node["type"] = "sub"
        inner = [link for link in inside["links"] if isinstance(link, list) and len(link) > 4]
        chance.choice(inner)[1] = chance.choice([-10, -20])
        chance.choice(inner)[3] = chance.choice([-10, -20])
    return None


def _listed(workflow, key):
    """What a drawing lists, unless an earlier damage made it something else."""
    return workflow[key] if isinstance(workflow.get(key), list) else []


def damaged(seed):
    chance = random.Random(f"workflows {seed}")
    path = chance.choice(FILES)
    workflow = json.loads(path.read_text(encoding="utf-8"))
    for _ in range(chance.randint(1, 6)):
        if workflow:
            chance.choice([change, rewire])(workflow, chance)
    return path.name, workflow


def pytest_generate_tests(metafunc):
    metafunc.parametrize("seed", range(CASES if metafunc.config.getoption("--full") else SHORT))


@pytest.fixture(scope="module")
def classes():
    return graph.load_nodes()


@pytest.fixture
def idle(monkeypatch, classes, tmp_path):
    """Nodes that don't work, in an empty folder."""

    def run(self, node_id, values):
        return Result((None,) * len(self._schemas[node_id].outputs), None)

    monkeypatch.setattr(Executor, "_run", run)
    monkeypatch.setattr(graph, "load_nodes", lambda: classes)
    monkeypatch.chdir(tmp_path)


def test_a_damaged_workflow_runs_or_is_a_sentence(seed, idle, classes, tmp_path, capsys):
    name, workflow = damaged(seed)
    print(f"seed {seed}: {name}")  # noqa: T201
    (tmp_path / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    began = time.monotonic()
    status = main(["run", "workflow.json", "--demo", "--set", "SanaVideoStart.width=64"])
    out, err = capsys.readouterr()
    assert status in (0, 1)
    assert status == 0 or "sana-video: " in err or "Left out" in out
    assert "Traceback" not in out + err
    with suppress(web.HTTPBadRequest):
        read_asked({"prompt": workflow, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}, classes)
    assert time.monotonic() - began < SECONDS
