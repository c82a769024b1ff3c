"""Reads workflow files, turns them into prompts as ComfyUI's page does, and applies --set and --demo.

A file is either a prompt (API format) or a drawing of nodes and links (what the page saves).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...sana_video_core.config import FAMILIES
from ...sana_video_core.errors import FileError, InputError
from .graph import Prompt, fits, title

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
CONTROLS = ("fixed", "increment", "decrement", "randomize")
NO_NODES = ("Note", "MarkdownNote", "Reroute", "PrimitiveNode")  # only the page knows them
MUTED, BYPASSED = 2, 4
DEMO = "demo (built in)"
LOADERS = {"SanaVideoModelLoader": "model_name", "SanaVideoTextEncoderLoader": "encoder_name"}
LOADERS |= {"SanaVideoVAELoader": "vae_name"}


def read_workflow(path: Path) -> dict[str, Any]:
    try:
        workflow = json.loads(Path(path).read_text(encoding="utf-8"))
        if "nodes" in workflow or all(
            isinstance(n["inputs"], dict) and n["class_type"] for n in workflow.values()
        ):
            return workflow
    except OSError as error:
        raise FileError(f"The workflow “{path}” cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    raise FileError(
        f"“{path}” is no workflow. Export one from ComfyUI (Save, or Export API), or take one of ours."
    )


def to_prompt(workflow: dict[str, Any], info: dict[str, Any]) -> Prompt:
    """`info`: /object_info of the nodes that will run it."""
    if "nodes" not in workflow:
        return {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in workflow.items()}
    if workflow.get("definitions", {}).get("subgraphs"):
        raise InputError("This workflow has subgraphs. Unpack them in ComfyUI, or export it in API format.")
    try:
        return _Drawing(workflow, info).prompt()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise FileError(
            f"This workflow's drawing is damaged ({error!r}). Export it again from ComfyUI."
        ) from error


def widgets(info: dict[str, Any], class_type: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(name, type or list of choices, options) of the inputs that have a widget, in order."""
    inputs = info.get(class_type, {}).get("input", {})
    for name, (kind, *rest) in (inputs.get("required", {}) | inputs.get("optional", {})).items():
        options = rest[0] if rest else {}
        if (kind in WIDGETS or isinstance(kind, list)) and not options.get("forceInput"):
            yield name, kind, {"options": kind, **options} if isinstance(kind, list) else options


class _Drawing:
    def __init__(self, workflow: dict[str, Any], info: dict[str, Any]) -> None:
        self._info, self._nodes = info, {node["id"]: node for node in workflow["nodes"]}
        links = [[*link.values()] if isinstance(link, dict) else link for link in workflow.get("links", [])]
        self._links = {link[0]: (link[1], link[2]) for link in links}

    def prompt(self) -> Prompt:
        prompt = {}
        for node_id, node in self._nodes.items():
            if node["type"] in NO_NODES or node.get("mode") in (MUTED, BYPASSED):
                continue
            inputs = dict(self._widget_values(node))
            for entry in node.get("inputs") or []:
                source = self._source(entry.get("link"), entry["type"])
                if source is not None:
                    inputs[entry["name"]] = source
            name = node.get("title") or self._info.get(node["type"], {}).get("display_name") or node["type"]
            prompt[str(node_id)] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": name}}
        return prompt

    def _widget_values(self, node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """By position: a file has no names. After each seed comes what happens to it after a run."""
        values = node.get("widgets_values") or []
        left = [] if isinstance(values, dict) else list(values)
        for name, kind, options in widgets(self._info, node["type"]):
            choices = options.get("options") or [None]
            value = left.pop(0) if left else options.get("default", choices[0])
            value = values.get(name, value) if isinstance(values, dict) else value
            control = options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed"))
            if control and left and left[0] in CONTROLS:
                left.pop(0)
            yield name, {"__value__": value} if isinstance(value, list) else value

    def _source(self, link: int | None, kind: str) -> Any:
        """A link's source: [node id, slot], the value of a primitive, or None where it leads nowhere."""
        node_id, slot = self._links.get(link, (None, 0))
        node = self._nodes.get(node_id)
        if node is None or node.get("mode") == MUTED:
            return None
        if node["type"] == "PrimitiveNode":
            return (node.get("widgets_values") or [None])[0]
        if node["type"] != "Reroute" and node.get("mode") != BYPASSED:
            return [str(node_id), slot]
        # a bypassed node passes on the input at the same slot, else one of the same type, else one that fits
        inputs = node.get("inputs") or []
        output = (node.get("outputs") or [{"type": "*"}])[slot]["type"]
        fitting = [entry for entry in inputs if fits(entry["type"], output) and fits(entry["type"], kind)]
        same_slot = [entry for entry in inputs[slot : slot + 1] if kind == "*" or entry in fitting]
        through = [*same_slot, *(entry for entry in inputs if entry["type"] == kind), *fitting]
        return self._source(through[0].get("link"), kind) if through else None


def apply_demo(prompt: Prompt) -> None:
    """Choose the built-in demo set in every loader of ours, and reduce large videos to the demo's size."""
    small = FAMILIES["demo"]
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] in LOADERS:
            inputs[LOADERS[node["class_type"]]] = DEMO
            family = FAMILIES.get(inputs.get("family"))
            inputs |= {"family": "auto"} if "family" in inputs and (family is None or family.causal) else {}
        if node["class_type"] in ("SanaVideoStart", "SanaVideoEmptyLatent"):
            for name, most in (("width", small.width), ("height", small.height)):
                inputs[name] = (
                    min(inputs[name], most) if isinstance(inputs.get(name), int) else inputs.get(name, most)
                )


def apply_setting(prompt: Prompt, setting: str, info: dict[str, Any]) -> None:
    """NODE.INPUT=VALUE; NODE is an id, or a title or class name that only one node has."""
    target, equals, text = setting.partition("=")
    name, _, field = target.rpartition(".")
    if not (name and field and equals):
        raise InputError(f"“{setting}” is no setting. Write NODE.INPUT=VALUE, for example 3.seed=7.")
    nodes = prompt.items()
    matches = [i for i, node in nodes if name in (node["class_type"], node.get("_meta", {}).get("title"))]
    matches = [name] if name in prompt else matches
    if len(matches) != 1:
        names = "; ".join(title(prompt, node_id) for node_id in prompt)
        count = f"{len(matches)} nodes" if matches else "no node"
        raise InputError(f"“{name}” is {count} of this workflow. Name one of: {names}.")
    (node_id,) = matches
    known = {key: (kind, options) for key, kind, options in widgets(info, prompt[node_id]["class_type"])}
    if field not in known:
        names = ", ".join(known) or "none"
        raise InputError(f"{title(prompt, node_id)} has no input “{field}” to set; it has: {names}.")
    prompt[node_id]["inputs"][field] = _converted(setting, text, *known[field])


def _converted(setting: str, text: str, kind: Any, options: dict[str, Any]) -> Any:
    try:
        if kind == "BOOLEAN":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in ("INT", "FLOAT"):
            return int(text) if kind == "INT" else float(text)
    except (KeyError, ValueError):
        raise InputError(f"In “{setting}”, “{text}” is no {kind}.") from None
    return next((choice for choice in options.get("options", []) if str(choice) == text), text)
