"""Node ids, and the order of inputs and outputs, are promises: saved workflows store widgets by position.

`promises.json` holds them. After appending something, rewrite it: python tests/nodes/test_promises.py
"""

import copy
import json
import sys
from pathlib import Path

STORED = Path(__file__).with_name("promises.json")
# lists of files, which differ from machine to machine
FILES = ("model_name", "encoder_name", "vae_name", "lora_name", "file")
# control_after_generate adds a widget after this one, forceInput removes it: both shift what follows
DETAILS = ("default", "min", "max", "step", "options", "control_after_generate", "forceInput")
HOW = "Promises are appended to, never reordered, renamed, removed or changed: saved workflows would break."
AGAIN = "If all changes are new and come last, rewrite the file: python tests/nodes/test_promises.py"


def promised(nodes) -> dict:
    """Every node: its inputs and outputs in order."""
    return {info["name"]: _node(info) for info in (node.GET_NODE_INFO_V1() for node in nodes)}


def _node(info) -> dict:
    inputs = [
        _input(name, kind, *info["input"][kind][name])
        for kind in ("required", "optional")
        for name in info["input_order"].get(kind, ())
    ]
    names = zip(info["output_name"], info["output"], strict=True)
    return {"inputs": inputs, "outputs": [{"name": name, "type": kind} for name, kind in names]}


def _input(name, kind, io_type, details) -> dict:
    known = {
        key: details[key] for key in DETAILS if key in details and (key, name in FILES) != ("options", True)
    }
    return {"name": name, "type": io_type, "kind": kind, **known}


def compare(old: dict, new: dict) -> tuple[list[str], list[str]]:
    """(broken promises, additions that no promise forbids), each as a sentence."""
    breaks, additions = [], []
    for node_id, was in old.items():
        if node_id not in new:
            breaks.append(f"the node {node_id} is gone")
            continue
        for what in ("inputs", "outputs"):
            _compare_sockets(f"{node_id}, {what}", was[what], new[node_id][what], breaks, additions)
    additions += [f"the node {node_id} is new" for node_id in new if node_id not in old]
    return breaks, additions


def _compare_sockets(where, was, now, breaks, additions) -> None:
    for place, (old, new) in enumerate(zip(was, now, strict=False)):
        if old["name"] != new["name"]:
            breaks.append(f"{where}: place {place} was “{old['name']}” and is “{new['name']}”")
            continue
        for key in sorted(old.keys() | new.keys()):
            before, after = old.get(key), new.get(key)
            if before == after:
                continue
            text = f"{where}, “{old['name']}”: {key} was {before} and is {after}"
            longer = key == "options" and before and after and after[: len(before)] == before
            (additions if longer else breaks).append(text)
    breaks.extend(f"{where}: “{old['name']}” is gone" for old in was[len(now) :])
    for new in now[len(was) :]:
        # a required input without a default would make every saved workflow invalid
        harmless = "kind" not in new or new["kind"] == "optional" or "default" in new
        (additions if harmless else breaks).append(
            f"{where}: “{new['name']}” is new" + ("" if harmless else ", required and has no default")
        )


def complaint(old: dict, new: dict) -> str:
    """What to report; empty when nothing changed."""
    breaks, additions = compare(old, new)
    lines = [f"BROKEN  {text}" for text in breaks] + [f"new     {text}" for text in additions]
    return "\n".join([*lines, HOW, AGAIN]) if lines else ""


def _now() -> dict:
    from comfyui_sana_video.nodes import NODES

    return json.loads(json.dumps(promised(NODES)))


def _in_lines(promises: dict) -> str:
    """JSON with one socket a line, so that a change of one is one line in a diff."""
    nodes = []
    for node_id, kinds in promises.items():
        lists = [
            f'  "{kind}": [\n' + ",\n".join(f"   {json.dumps(socket)}" for socket in sockets) + "\n  ]"
            for kind, sockets in kinds.items()
        ]
        nodes.append(f' "{node_id}": {{\n' + ",\n".join(lists) + "\n }")
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def _stored() -> dict:
    return json.loads(STORED.read_text(encoding="utf-8"))


def test_promises_are_kept():
    broken = complaint(_stored(), _now())
    assert not broken, broken


def test_promises_hold_what_matters():
    stored = _stored()
    sampler = {entry["name"]: entry for entry in stored["SanaVideoBlockSampler"]["inputs"]}
    assert " ".join(sampler) == "model positive state chunks seed steps sampler on_prompt_change rule store"
    assert sampler["seed"] == {
        "name": "seed",
        "type": "INT",
        "kind": "required",
        "default": 0,
        "min": 0,
        "max": 2**64 - 1,
        "control_after_generate": True,
    }
    assert sampler["on_prompt_change"]["options"] == ["recache", "keep", "cut"]
    outputs = [entry["type"] for entry in stored["SanaVideoBlockSampler"]["outputs"]]
    assert outputs == ["LATENT", "SANA_STATE", "INT"]
    assert "options" not in stored["SanaVideoModelLoader"]["inputs"][0]
    assert len(stored) >= 15


def _changed(change) -> tuple[list[str], list[str]]:
    old = _now()
    new = copy.deepcopy(old)
    change(new)
    assert HOW in complaint(old, new)
    assert "python tests/nodes/test_promises.py" in complaint(old, new)
    return compare(old, new)


SAMPLER = "SanaVideoBlockSampler"
OPTIONAL = {"name": "window", "type": "INT", "kind": "optional"}
REQUIRED = {"name": "window", "type": "INT", "kind": "required"}


def _set(entry, **values):
    entry.update(values)


BREAKS = {
    "node removed": lambda new: new.pop(SAMPLER),
    "input removed": lambda new: new[SAMPLER]["inputs"].pop(4),
    "last input removed": lambda new: new[SAMPLER]["inputs"].pop(),
    "output removed": lambda new: new[SAMPLER]["outputs"].pop(),
    "inputs reordered": lambda new: new[SAMPLER]["inputs"].reverse(),
    "outputs reordered": lambda new: new[SAMPLER]["outputs"].reverse(),
    "inserted in the middle": lambda new: new[SAMPLER]["inputs"].insert(3, OPTIONAL),
    "output inserted in front": lambda new: new[SAMPLER]["outputs"].insert(0, {"name": "x", "type": "INT"}),
    "renamed": lambda new: _set(new[SAMPLER]["inputs"][3], name="count"),
    "another type": lambda new: _set(new[SAMPLER]["inputs"][3], type="FLOAT"),
    "another default": lambda new: _set(new[SAMPLER]["inputs"][5], default=8),
    "a narrower range": lambda new: _set(new[SAMPLER]["inputs"][5], max=10),
    "optional became required": lambda new: _set(new["SanaVideoDecode"]["inputs"][2], kind="required"),
    "option removed": lambda new: new[SAMPLER]["inputs"][7]["options"].pop(),
    "options reordered": lambda new: new[SAMPLER]["inputs"][7]["options"].reverse(),
    "a required input without a default": lambda new: new[SAMPLER]["inputs"].append(REQUIRED),
}
ADDITIONS = {
    "optional input": lambda new: new[SAMPLER]["inputs"].append(OPTIONAL),
    "required input with a default": lambda new: new[SAMPLER]["inputs"].append({**REQUIRED, "default": 0}),
    "output": lambda new: new[SAMPLER]["outputs"].append({"name": "seconds", "type": "FLOAT"}),
    "option": lambda new: new[SAMPLER]["inputs"][7]["options"].append("fade"),
    "node": lambda new: new.update(SanaVideoNew={"inputs": [], "outputs": []}),
}


def test_a_break_is_reported():
    for name, change in BREAKS.items():
        breaks, _ = _changed(change)
        assert breaks, name
    assert _changed(BREAKS["inserted in the middle"])[0][0] == (
        "SanaVideoBlockSampler, inputs: place 3 was “chunks” and is “window”"
    )


def test_an_addition_is_no_break_but_has_to_be_stored():
    for name, change in ADDITIONS.items():
        breaks, additions = _changed(change)
        assert not breaks, name
        assert len(additions) == 1, name


def test_nothing_is_reported_when_nothing_changed():
    assert complaint(_now(), _now()) == ""


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import conftest  # noqa: F401  imports the checkout and the fake ComfyUI

    current = _now()
    if STORED.exists() and (broken := compare(_stored(), current)[0]) and "--force" not in sys.argv:
        sys.exit("\n".join([*broken, HOW, "Nothing was written. To break them anyway: --force"]))
    STORED.write_text(_in_lines(current), encoding="utf-8")
