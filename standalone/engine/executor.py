"""Runs a prompt: each node after its inputs, and not at all while its result is cached.

The cache key is ComfyUI's: class, fingerprint and inputs of the node and of all its ancestors. Node ids are
not part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import torch
from comfy import model_management, utils
from comfy_api.latest import io
from comfy_execution.utils import CurrentNodeContext
from latent_preview import set_preview_method
from server import PromptServer

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
    progress {node, value, max, preview}, words {node, text}, executed {node, output}, error {node, message},
    finished; and from any thread with: picture {node, preview}.
    Nothing here is recursive: a chain may have thousands of nodes.
    """

    client_id = ""  # words and pictures go to whoever listens
    sockets_metadata: ClassVar = {client_id: {"supports_preview_metadata"}}

    def __init__(
        self, classes: dict, tell: Callable = lambda event, data: None, cache: str = "classic"
    ) -> None:
        self.classes, self.tell, self.cache = classes, tell, cache
        self.results: dict[Any, Result] = {}
        self._numbers, self._count = {}, count(1)  # a short key for each node's long one

    def run(
        self, prompt: Prompt, extra_pnginfo: dict[str, Any] | None = None, previews: str | None = None
    ) -> dict[str, Any]:
        """What nodes show, by id. Raises InputError, a SanaVideoError that names the node, or Cancelled.

        `previews` is the method of live pictures ("none" for no pictures).
        """
        set_preview_method(previews)
        self._prompt, self._extra, self._shown = prompt, extra_pnginfo, {}
        validation = Validation(prompt, self.classes)
        self._nodes = {node_id: self.classes[node["class_type"]] for node_id, node in prompt.items()}
        self._schemas, self._lazy = validation.schemas, {}
        self._known_inputs = {id(s): {entry.id for entry in s.inputs} for s in self._schemas.values()}
        keep = self.cache != "none"
        self._keys = self._signatures() if keep else {node_id: node_id for node_id in prompt}
        self.results = {key: self.results[key] for key in self._keys.values() if keep and key in self.results}
        needed = dict.fromkeys(validation.outputs)
        for node_id in (queue := list(needed)):  # grows during the loop
            queue += [source for source in self._sources(node_id) if source not in needed]
            needed |= dict.fromkeys(self._sources(node_id))
        self._uses = Counter(source for node_id in needed for source in self._sources(node_id))
        model_management.interrupt_current_processing(False)
        self.tell("started", {})
        if validation.problems:
            self.tell("left out", {"message": validation.report()})
        self.tell("cached", {"nodes": [n for n, key in self._keys.items() if key in self.results]})
        with torch.inference_mode():
            for node_id in validation.outputs:
                self._work(node_id)
        self.tell("finished", {})
        return self._shown

    def _inputs(self, node_id: str) -> dict[str, Any]:
        """The inputs that the node knows."""
        inputs, schema = self._prompt[node_id]["inputs"], self._schemas[node_id]
        known = self._known_inputs[id(schema)]
        return {name: value for name, value in inputs.items() if schema.accept_all_inputs or name in known}

    def _sources(self, node_id: str) -> list[str]:
        links = sorted(self._inputs(node_id).items())
        return list(dict.fromkeys(v[0] for _, v in links if is_link(v) and v[0] in self._prompt))

    def _fingerprint(self, node_id: str) -> Any:
        try:
            values = {name: None if is_link(v) else v for name, v in self._inputs(node_id).items()}
            node = self._nodes[node_id]
            return node.fingerprint_inputs(**values) if hasattr(node, "fingerprint_inputs") else None
        except Exception:  # it counts as changed, as in ComfyUI
            return object()

    def _signatures(self) -> dict[str, Any]:
        """A key for each node that is equal in two runs if the node and all its ancestors are.

        A node that feeds itself has none that stays; it doesn't run.
        """
        keys: dict[str, Any] = {}
        before, self._numbers = self._numbers, {}
        for node_id in self._ordered():
            schema = self._schemas[node_id]
            by_id = schema.not_idempotent or io.Hidden.unique_id in schema.hidden
            values = {
                name: (keys.get(v[0]), v[1]) if is_link(v) else [v]
                for name, v in self._inputs(node_id).items()
            }
            long = _frozen((schema.node_id, self._fingerprint(node_id), node_id if by_id else None, values))
            number = self._numbers.get(long) or before.get(long) or next(self._count)
            keys[node_id] = self._numbers[long] = number
        return keys

    def _ordered(self) -> list[str]:
        """All nodes, each after its sources."""
        done: dict[str, None] = {}
        for first in self._prompt:
            way = {} if first in done else {first: iter(self._sources(first))}
            while way:
                node_id, sources = next(reversed(way.items()))
                source = next((one for one in sources if one not in done and one not in way), None)
                if source is None:
                    del way[node_id]
                    done[node_id] = None
                else:
                    way[source] = iter(self._sources(source))
        return list(done)

    def _work(self, output: str) -> None:
        """Run a node after what it needs, as far as that isn't cached."""
        stack = [output]
        while stack:
            node_id = stack[-1]
            if self._keys[node_id] not in self.results:
                source = next((s for s in self._asked(node_id) if self._keys[s] not in self.results), None)
                if source is not None:
                    stack.append(source)
                    continue
                values = self._gather(node_id)
                if self._asks_for_more(node_id, values):
                    continue
                self._finish(node_id, values)
            self._show(stack.pop())

    def _finish(self, node_id: str, values: dict[str, Any]) -> None:
        self.results[self._keys[node_id]] = self._guarded(node_id, lambda: self._run(node_id, values))
        for source in self._sources(node_id):
            self._uses[source] -= 1
            if self.cache == "none" and not self._uses[source]:
                self.results.pop(source, None)

    def _show(self, node_id: str) -> None:
        result = self.results[self._keys[node_id]]
        if result.ui is not None and node_id not in self._shown:
            self._shown[node_id] = result.ui
            self.tell("executed", {"node": node_id, "output": result.ui})

    def _waiting(self, node_id: str) -> set[str]:
        """Lazy inputs that are linked and that the node has not asked for yet."""
        if node_id not in self._lazy:
            inputs = self._inputs(node_id)
            lazy = {entry.id for entry in self._schemas[node_id].inputs if entry.arguments.get("lazy")}
            self._lazy[node_id] = {name for name in lazy if is_link(inputs.get(name))}
        return self._lazy[node_id]

    def _asked(self, node_id: str) -> list[str]:
        """The sources of all inputs that are not waiting."""
        inputs, waiting = self._inputs(node_id), self._waiting(node_id)
        return [v[0] for name, v in inputs.items() if is_link(v) and name not in waiting]

    def _gather(self, node_id: str) -> dict[str, Any]:
        """The values of a node's inputs; a lazy link is None until the node asks for it."""
        waiting = self._waiting(node_id)
        return {n: None if n in waiting else self._value(v) for n, v in self._inputs(node_id).items()}

    def _asks_for_more(self, node_id: str, values: dict[str, Any]) -> bool:
        """Whether the node wants lazy inputs that it doesn't have; they wait no longer."""
        node, waiting = self._nodes[node_id], self._waiting(node_id)
        if not hasattr(node, "check_lazy_status"):
            return False
        required = set(self._guarded(node_id, node.check_lazy_status, **values) or ())
        if missing := required - set(values):
            raise SanaVideoError(
                f"{title(self._prompt, node_id)} asks for {missing}, but nothing is connected there."
            )
        self._lazy[node_id] = waiting - required
        return bool(required & waiting)

    def _value(self, value: Any) -> Any:
        if not is_link(value):
            return value
        self._show(value[0])
        outputs = self.results[self._keys[value[0]]].outputs
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

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        """What a node says of itself while it runs."""
        self.tell("words", {"node": node_id, "text": text})

    def send_sync(self, event: int, data: tuple[Any, dict[str, Any]], sid: str | None = None) -> None:
        """A live picture that says which node it belongs to, from any thread."""
        image, about = data
        self.tell("picture", {"node": about["node_id"], "preview": image})

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
        PromptServer.instance = self
        with CurrentNodeContext("", node_id):
            output = _Locked(node.__name__, (node,), {"hidden": hidden}).execute(**values)
        output = output if isinstance(output, io.NodeOutput) else io.NodeOutput(*(output or ()))
        if output.expand is not None:
            raise SanaVideoError("it expands into other nodes; only a real ComfyUI runs such nodes.")
        ui = output.ui.as_dict() if hasattr(output.ui, "as_dict") else output.ui
        # without args, ComfyUI ignores it too
        blocked = output.block_execution is not None and output.args
        return Result((BLOCKED,) * len(schema.outputs) if blocked else output.args, ui)
