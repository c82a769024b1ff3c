"""Runs a prompt: each node after its inputs, and not at all while its result is cached.

The cache key is ComfyUI's: class, fingerprint and inputs of the node and of all its ancestors, where a link
is a position in the ordered ancestry. Node ids are not part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from comfy import model_management, utils
from comfy_api.latest import io

from ...sana_video_core.errors import Cancelled, SanaVideoError
from .graph import Prompt, Validation, is_link, title

BLOCKED = object()  # in place of a value: a node that takes it doesn't run


class Result(NamedTuple):
    outputs: tuple[Any, ...]
    ui: dict[str, Any] | None


class _Locked(type):
    def __setattr__(cls, name: str, value: Any) -> None:
        raise AttributeError(f"cls.{name} is written to; a running node class is locked, here as in ComfyUI.")


def _frozen(value: Any) -> Any:
    """A hashable stand-in that is equal when `value` is; what can't be compared is equal to nothing."""
    if isinstance(value, dict):
        return frozenset((key, _frozen(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return value if isinstance(value, (str, int, float, bytes, type(None))) else object()


class Executor:
    """Keeps the results of its last run; with `cache` "none", each only until the last node that uses it.

    tell(event, data) is called with: started, left out {message}, cached {nodes}, executing {node},
    progress {node, value, max, preview}, executed {node, output}, error {node, message}, finished.
    """

    def __init__(
        self, classes: dict, tell: Callable = lambda event, data: None, cache: str = "classic"
    ) -> None:
        self.classes, self.tell, self.cache = classes, tell, cache
        self.results: dict[Any, Result] = {}

    def run(self, prompt: Prompt, extra_pnginfo: dict[str, Any] | None = None) -> dict[str, Any]:
        """What nodes show, by id. Raises InputError, a SanaVideoError that names the node, or Cancelled."""
        self._prompt, self._extra, self._shown = prompt, extra_pnginfo, {}
        validation = Validation(prompt, self.classes)
        self._nodes = {node_id: self.classes[node["class_type"]] for node_id, node in prompt.items()}
        self._schemas = {node_id: node.GET_SCHEMA() for node_id, node in self._nodes.items()}
        prints = {node_id: self._fingerprint(node_id) for node_id in prompt}
        keep = self.cache != "none"
        self._keys = {node_id: self._signature(node_id, prints) if keep else node_id for node_id in prompt}
        self.results = {key: self.results[key] for key in self._keys.values() if keep and key in self.results}
        needed = list(validation.outputs)
        for node_id in needed:  # grows during the loop
            needed += [source for source in self._sources(node_id) if source not in needed]
        self._uses = Counter(source for node_id in needed for source in self._sources(node_id))
        model_management.interrupt_current_processing(False)
        self.tell("started", {})
        if validation.problems:
            self.tell("left out", {"message": validation.report()})
        self.tell("cached", {"nodes": [n for n, key in self._keys.items() if key in self.results]})
        with torch.inference_mode():
            for node_id in validation.outputs:
                self._result(node_id)
        self.tell("finished", {})
        return self._shown

    def _inputs(self, node_id: str) -> dict[str, Any]:
        """The inputs that the node knows."""
        inputs, schema = self._prompt[node_id]["inputs"], self._schemas[node_id]
        known = {entry.id for entry in schema.inputs}
        return {name: value for name, value in inputs.items() if schema.accept_all_inputs or name in known}

    def _sources(self, node_id: str) -> list[str]:
        links = sorted(self._prompt[node_id]["inputs"].items())
        # an input that the node doesn't know may link to a missing node
        return list(dict.fromkeys(v[0] for _, v in links if is_link(v) and v[0] in self._prompt))

    def _fingerprint(self, node_id: str) -> Any:
        try:
            values = {name: None if is_link(v) else v for name, v in self._inputs(node_id).items()}
            node = self._nodes[node_id]
            return node.fingerprint_inputs(**values) if hasattr(node, "fingerprint_inputs") else None
        except Exception:  # it counts as changed, as in ComfyUI
            return object()

    def _signature(self, node_id: str, prints: dict[str, Any]) -> Any:
        order: dict[str, int] = {}

        def number(current: str) -> None:
            for source in self._sources(current):
                if source not in order:
                    order[source] = len(order)
                    number(source)

        def key(member: str) -> tuple[Any, ...]:
            schema = self._schemas[member]
            by_id = schema.not_idempotent or io.Hidden.unique_id in schema.hidden
            values = self._prompt[member]["inputs"].items()
            inputs = {name: (order.get(v[0]), v[1]) if is_link(v) else [v] for name, v in values}
            return schema.node_id, prints[member], member if by_id else None, inputs

        number(node_id)
        return _frozen([key(member) for member in (node_id, *order)])

    def _result(self, node_id: str) -> Result:
        """From the cache, or by running the node and what it needs."""
        result = self.results.get(self._keys[node_id])
        if result is None:
            values = self._gather(node_id)
            result = self.results[self._keys[node_id]] = self._guarded(
                node_id, lambda: self._run(node_id, values)
            )
            for source in self._sources(node_id):
                self._uses[source] -= 1
                if self.cache == "none" and not self._uses[source]:
                    self.results.pop(source, None)
        if result.ui is not None and node_id not in self._shown:
            self._shown[node_id] = result.ui
            self.tell("executed", {"node": node_id, "output": result.ui})
        return result

    def _gather(self, node_id: str) -> dict[str, Any]:
        """The values of a node's inputs; a lazy link is None until the node asks for it."""
        node, inputs = self._nodes[node_id], self._inputs(node_id)
        lazy = {entry.id for entry in self._schemas[node_id].inputs if entry.arguments.get("lazy")}
        waiting = {name for name in lazy if is_link(inputs.get(name))}
        values = {name: None if name in waiting else self._value(value) for name, value in inputs.items()}
        while hasattr(node, "check_lazy_status"):
            required = set(self._guarded(node_id, node.check_lazy_status, **values) or ())
            if missing := required - set(inputs):
                raise SanaVideoError(
                    f"{title(self._prompt, node_id)} asks for {missing}, but nothing is connected there."
                )
            if not required & waiting:
                break
            values |= {name: self._value(inputs[name]) for name in required & waiting}
            waiting -= required
        return values

    def _value(self, value: Any) -> Any:
        if not is_link(value):
            return value
        outputs = self._result(value[0]).outputs
        if value[1] < len(outputs):
            return outputs[value[1]]
        raise SanaVideoError(
            f"{title(self._prompt, value[0])} gave no output {value[1]}, but another node takes it."
        )

    def _guarded(self, node_id: str, call: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call it; report whatever it raises, and add the node's name."""
        try:
            return call(*args, **kwargs)
        except (model_management.InterruptProcessingException, KeyboardInterrupt, Cancelled) as stop:
            self.tell("error", {"node": node_id, "message": "interrupted"})
            raise Cancelled(
                f"Stopped in {title(self._prompt, node_id)}; what was finished before stays."
            ) from stop
        except Exception as error:
            self.tell("error", {"node": node_id, "message": str(error)})
            raise SanaVideoError(
                f"{title(self._prompt, node_id)}: {error or type(error).__name__}"
            ) from error

    def _run(self, node_id: str, values: dict[str, Any]) -> Result:
        schema, node = self._schemas[node_id], self._nodes[node_id]
        self.tell("executing", {"node": node_id})
        model_management.throw_exception_if_processing_interrupted()
        if any(value is BLOCKED for value in values.values()):
            return Result((BLOCKED,) * len(schema.outputs), None)
        utils.set_progress_bar_global_hook(
            lambda value, total, preview, **_: self.tell(
                "progress", {"node": node_id, "value": value, "max": total, "preview": preview}
            )
        )
        known = {"prompt": self._prompt, "extra_pnginfo": self._extra, "unique_id": node_id}
        hidden = SimpleNamespace(
            **{name: value if io.Hidden[name] in schema.hidden else None for name, value in known.items()}
        )
        output = _Locked(node.__name__, (node,), {"hidden": hidden}).execute(**values)
        output = output if isinstance(output, io.NodeOutput) else io.NodeOutput(*(output or ()))
        if output.expand is not None:
            raise SanaVideoError("it expands into other nodes; only a real ComfyUI runs such nodes.")
        ui = output.ui.as_dict() if hasattr(output.ui, "as_dict") else output.ui
        # without args, ComfyUI ignores it too
        blocked = output.block_execution is not None and output.args
        return Result((BLOCKED,) * len(schema.outputs) if blocked else output.args, ui)
