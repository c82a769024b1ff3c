"""Loads node classes, and finds out which nodes of a graph can run: ComfyUI's validation, in sentences.

A prompt is a graph in API format:
{id: {"class_type": name, "inputs": {name: a value, or [id, slot] for a link}}}.
"""

from __future__ import annotations

import asyncio
import inspect
from importlib import import_module
from typing import Any

from ...sana_video_core.errors import InputError
from .. import use_fake_comfy

Prompt = dict[str, dict[str, Any]]
PACK = "ComfyUI-SANA-Video"  # our folder in ComfyUI's custom_nodes, which the page shows on every node
CONVERTERS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def load_nodes() -> dict[str, Any]:
    """Node classes by id: the few of core, and this pack's."""
    use_fake_comfy()
    root = import_module("...", __package__)
    core = import_module(".core_nodes", __package__).NODES
    ours = asyncio.run(_listed(root.comfy_entrypoint))
    return by_id(core, "nodes") | by_id(ours, f"custom_nodes.{PACK}")


async def _listed(entrypoint: Any) -> list[Any]:
    extension = await entrypoint()
    await extension.on_load()
    return await extension.get_node_list()


def by_id(nodes: list[Any], module: str) -> dict[str, Any]:
    for node in nodes:
        node.RELATIVE_PYTHON_MODULE, schema = module, node.GET_SCHEMA()
        if (
            schema.is_input_list
            or schema.enable_expand
            or any(output.is_output_list for output in schema.outputs)
        ):
            raise InputError(
                f"{schema.node_id} works on lists or expands; only a real ComfyUI runs such nodes."
            )
    return {node.GET_SCHEMA().node_id: node for node in nodes}


def is_link(value: Any) -> bool:
    return isinstance(value, list) and [*map(type, value)] == [str, int]


def title(prompt: Prompt, node_id: str) -> str:
    node = prompt[node_id]
    return f"{node.get('_meta', {}).get('title') or node['class_type']} (node {node_id})"


def fits(output: str, socket: str) -> bool:
    """Whether an output may feed a socket; each type may be a list of several, and "*" is any."""
    outputs, sockets = ({name.strip() for name in text.split(",")} for text in (output, socket))
    return bool(outputs & sockets) or "*" in outputs | sockets


class RefusedError(InputError):
    """Nothing in this graph can run; `problems` holds sentences by node id."""

    def __init__(self, message: str, problems: dict[str, list[str]]) -> None:
        super().__init__(message)
        self.problems = problems


class Validation:
    """`outputs`: the output nodes that can run; `problems`: sentences by node id.

    An output with a problem upstream is left out and the others still run, as in ComfyUI. Converts values in
    place. Raises InputError when a node is unknown, RefusedError when nothing is left.
    """

    def __init__(self, prompt: Prompt, classes: dict[str, Any]) -> None:
        if missing := {str(node.get("class_type")) for node in prompt.values()} - set(classes):
            raise InputError(f"There is no node {', '.join(sorted(missing))} here.")
        self._prompt = prompt
        self._nodes = {node_id: classes[node["class_type"]] for node_id, node in prompt.items()}
        self._schemas = {node_id: node.GET_SCHEMA() for node_id, node in self._nodes.items()}
        self.problems: dict[str, list[str]] = {}
        self._good: dict[str, bool] = {}
        self.outputs = [
            n for n, schema in self._schemas.items() if schema.is_output_node and self._check(n, ())
        ]
        if not self.outputs:
            words = self.report() or "Nothing in this graph saves or shows a result; add a Save Video node."
            raise RefusedError(words, self.problems)

    def report(self) -> str:
        """All problems, a line for each."""
        return "\n".join(
            f"{title(self._prompt, node_id)}: {problem}."
            for node_id, problems in self.problems.items()
            for problem in problems
        )

    def _check(self, node_id: str, above: tuple[str, ...]) -> bool:
        """Whether a node and everything upstream are valid; `above` is the way from an output to it."""
        if node_id in above:
            ring = above[above.index(node_id) :]
            for member in ring:
                self._add(member, f"it feeds itself in a circle ({' → '.join((*ring, node_id))}); cut a link")
            return False
        if node_id not in self._good:
            node, inputs = self._nodes[node_id], self._prompt[node_id]["inputs"]
            check = inspect.getfullargspec(node.validate_inputs) if hasattr(node, "validate_inputs") else None
            named = set(inputs) if check and check.varkw else set(inputs) & set(check.args if check else ())
            entries = self._schemas[node_id].inputs
            good = [self._input(node_id, entry, entry.id in named, (*above, node_id)) for entry in entries]
            if named:
                values = {name: None if is_link(inputs[name]) else inputs[name] for name in named}
                if (answer := node.validate_inputs(**values)) is not True:
                    self._add(node_id, answer or "its inputs do not go together")
            self._good[node_id] = all(good) and node_id not in self.problems
        return self._good[node_id]

    def _add(self, node_id: str, problem: str) -> bool:
        if problem:
            self.problems.setdefault(node_id, []).append(problem)
        return not problem

    def _input(self, node_id: str, entry: Any, named: bool, above: tuple[str, ...]) -> bool:
        """Check one input; a `named` one is left to the node's own check, limits included."""
        inputs = self._prompt[node_id]["inputs"]
        if entry.id not in inputs:
            return self._add(
                node_id, "" if entry.optional else f"“{entry.id}” is missing; connect or fill it"
            )
        if isinstance(inputs[entry.id], list):
            problem = self._link(inputs[entry.id], entry)
            return self._add(node_id, problem) and self._check(inputs[entry.id][0], above)
        return self._add(node_id, self._value(inputs, entry, entry.as_dict(), named))

    def _link(self, link: list[Any], entry: Any) -> str:
        source = self._schemas.get(link[0]) if is_link(link) else None
        if source is None or not 0 <= link[1] < len(source.outputs):
            return f"“{entry.id}” is linked to {link}, which is no output of a node here"
        output = source.outputs[link[1]].io_type
        wrong = f"“{entry.id}” takes {entry.io_type}, but {title(self._prompt, link[0])} gives {output}"
        return "" if fits(output, entry.io_type) else wrong

    def _value(self, inputs: dict[str, Any], entry: Any, options: dict[str, Any], named: bool) -> str:
        value, kind, choices = inputs[entry.id], entry.io_type, options.get("options", [])
        # how a list can be a value
        value = value.get("__value__", value) if isinstance(value, dict) else value
        try:
            value = inputs[entry.id] = CONVERTERS.get(kind, lambda same: same)(value)
        except (TypeError, ValueError):
            return f"“{entry.id}” is {value!r}, which is no {kind}"
        if named:
            return ""
        if "min" in options and value < options["min"]:
            return f"“{entry.id}” is {value}; the least is {options['min']}"
        if "max" in options and value > options["max"]:
            return f"“{entry.id}” is {value}; the most is {options['max']}"
        listed = ", ".join(map(str, choices)) or "nothing is there yet"
        wrong = f"“{entry.id}” is “{value}”; choose one of: {listed}"
        return wrong if kind == "COMBO" and value not in choices else ""
