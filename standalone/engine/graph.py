"""Loads node classes, and finds out which nodes of a graph can run: ComfyUI's validation, in sentences.

A prompt is a graph in API format:
{id: {"class_type": name, "inputs": {name: a value, or [id, slot] for a link}}}.
"""

from __future__ import annotations

import asyncio
import inspect
import reprlib
from importlib import import_module
from typing import Any

from ...sana_video_core.errors import InputError
from .. import use_fake_comfy
from .values import checked_value

Prompt = dict[str, dict[str, Any]]
PACK = "ComfyUI-SANA-Video"  # our folder in ComfyUI's custom_nodes, which the page shows on every node
LONG_RING = 8  # a circle of more nodes is shown in part


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
    node = prompt.get(node_id, {})
    named = node.get("_meta")
    name = named.get("title") if isinstance(named, dict) else None
    return f"{name if isinstance(name, str) and name else node.get('class_type')} (node {node_id})"


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
        self.schemas = schemas_of(prompt, classes)
        self.problems: dict[str, list[str]] = {}
        self._good: dict[str, bool] = {}
        self.outputs = [n for n, schema in self.schemas.items() if schema.is_output_node and self._check(n)]
        if not self.outputs:
            words = self.report() or "Nothing in this graph saves or shows a result; add a Save Video node."
            raise RefusedError(words, self.problems)

    def report(self) -> str:
        """All problems, a line for each."""
        return "\n".join(
            f"{title(self._prompt, node_id)}: {problem.rstrip('.')}."
            for node_id, problems in self.problems.items()
            for problem in problems
        )

    def _check(self, output: str) -> bool:
        """Whether an output and all upstream are valid. Not recursive: chains have thousands of nodes."""
        way = {} if output in self._good else {output: iter(self._sources(output))}
        while way:
            node_id, sources = next(reversed(way.items()))
            for source in sources:
                if source in way:
                    self._add_ring(list(way)[list(way).index(source) :])
                elif source not in self._good:
                    way[source] = iter(self._sources(source))
                    break
            else:
                del way[node_id]
                self._check_node(node_id)
        return self._good[output]

    def _add_ring(self, ring: list[str]) -> None:
        shown = ring if len(ring) < LONG_RING else [*ring[: LONG_RING // 2], "…", ring[-1]]
        for member in ring:
            if member not in self.problems:  # one circle a node is enough to say
                self._add(
                    member, f"it feeds itself in a circle ({' → '.join((*shown, ring[0]))}); cut a link"
                )

    def _add(self, node_id: str, problem: str) -> None:
        if problem:
            self.problems.setdefault(node_id, []).append(problem)

    def _sources(self, node_id: str) -> list[str]:
        """The nodes that feed its inputs, by links that are good."""
        inputs = self._prompt[node_id]["inputs"]
        links = [(inputs.get(entry.id), entry) for entry in self.schemas[node_id].inputs]
        return list({link[0]: None for link, entry in links if is_link(link) and not self._link(link, entry)})

    def _check_node(self, node_id: str) -> None:
        """Check one node's inputs, whose sources are checked already, then ask its own check."""
        node, inputs = self._nodes[node_id], self._prompt[node_id]["inputs"]
        check = inspect.getfullargspec(node.validate_inputs) if hasattr(node, "validate_inputs") else None
        named = set(inputs) if check and check.varkw else set(inputs) & set(check.args if check else ())
        for entry in self.schemas[node_id].inputs:
            self._add(node_id, self._input(inputs, entry, entry.id in named))
        if named and node_id not in self.problems:
            values = {name: None if is_link(inputs[name]) else inputs[name] for name in named}
            self._add(node_id, _own_check(node, values))
        self._good[node_id] = node_id not in self.problems and all(
            self._good.get(source, False) for source in self._sources(node_id)
        )

    def _input(self, inputs: dict[str, Any], entry: Any, named: bool) -> str:
        """What is wrong with one input; the limits of a `named` one are left to the node's own check."""
        if entry.id not in inputs:
            return "" if entry.optional else f"“{entry.id}” is missing; connect or fill it"
        if isinstance(inputs[entry.id], list):
            return self._link(inputs[entry.id], entry)
        value, problem = checked_value(inputs[entry.id], entry, limits=not named)
        inputs[entry.id] = value
        return problem

    def _link(self, link: list[Any], entry: Any) -> str:
        source = self.schemas.get(link[0]) if is_link(link) else None
        if source is None or not 0 <= link[1] < len(source.outputs):
            return f"“{entry.id}” is linked to {reprlib.repr(link)}, which is no output of a node here"
        output = source.outputs[link[1]].io_type
        wrong = f"“{entry.id}” takes {entry.io_type}, but {title(self._prompt, link[0])} gives {output}"
        return "" if fits(output, entry.io_type) else wrong


def schemas_of(prompt: Prompt, classes: dict[str, Any]) -> dict[str, Any]:
    """A schema for each node id; nodes of one class share it."""
    kinds = {node["class_type"]: None for node in prompt.values()}
    schemas = {kind: classes[kind].GET_SCHEMA() for kind in kinds}
    return {node_id: schemas[node["class_type"]] for node_id, node in prompt.items()}


def _own_check(node: Any, values: dict[str, Any]) -> str:
    try:
        answer = node.validate_inputs(**values)
    except Exception as error:  # a mistake of a pack; ComfyUI refuses the node, too
        return f"its inputs cannot be checked ({error or type(error).__name__})"
    return "" if answer is True else str(answer or "its inputs do not go together")
