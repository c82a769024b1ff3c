"""Turns a drawing of nodes and links into a prompt, as ComfyUI's page does when Run is pressed."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ...sana_video_core.errors import FileError, InputError
from .dynamic_prompts import declared, resolve
from .graph import Prompt, fits
from .levels import BYPASSED, DAMAGE, ENTRANCE, MUTED, Level, open_levels
from .page_nodes import (
    GETTER,
    PACKS,
    PRIMITIVE,
    SETTER,
    is_label,
    only_of_page,
    shared_name,
    warn_of_no_setter,
)

# what an empty widget of a kind holds; the page has a widget for each of these
EMPTY = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "COMBO": None, "COLOR": "#ffffff"}
EMPTY |= dict.fromkeys(("MARKDOWN", "TEXTAREA", "CURVE", "RANGE", "COLORS", "BOUNDING_BOX"))
CHOICE_WITH_MORE = "COMFY_DYNAMICCOMBO_V3"  # a choice that brings inputs of its own
CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
Widget = tuple[str, Any, dict[str, Any]]  # name, type or value, options


class Value(NamedTuple):
    """What a link brings that comes from no node: `typed` into a primitive, or into a subgraph's widget."""

    value: Any
    typed: bool


def prompt_of(drawing: dict[str, Any], info: dict[str, Any]) -> Prompt:
    """`info`: /object_info of whoever will run it. Raises InputError where links lead in a circle."""
    return _Page(drawing, info).prompt()


def widgets(info: dict[str, Any], class_type: str | None) -> Iterator[Widget]:
    """(name, type or list of choices, options) of the inputs that have a widget, in order.

    Raises InputError if `info` describes the node as no page could show it.
    """
    return _with_widgets(class_type or "", info.get(class_type or "", {}).get("input") or {})


def _with_widgets(class_type: str, inputs: Any) -> Iterator[Widget]:
    for name, (kind, *rest) in _described(class_type, inputs).items():
        options = (rest[0] if rest else None) or {}
        listed = isinstance(kind, list)
        shown = listed or kind in EMPTY or kind == CHOICE_WITH_MORE or options.get("widgetType")
        if shown and not options.get("forceInput"):
            yield name, kind, {"options": kind, **options} if listed else options


def _described(class_type: str, inputs: Any) -> dict[str, Any]:
    """The inputs of a node by name: required ones, then optional ones."""
    found: dict[str, Any] = {}
    for part in ("required", "optional"):
        entries = (inputs.get(part) or {}) if isinstance(inputs, dict) else None
        if not isinstance(entries, dict):
            raise _no_description(class_type, "its inputs", inputs)
        found |= entries
    for name, entry in found.items():
        if not _is_described(entry):
            raise _no_description(class_type, f"its input “{name}”", entry)
    return found


def _is_described(entry: Any) -> bool:
    """Whether this is a type or a list of choices, maybe followed by options."""
    if not isinstance(entry, (list, tuple)):
        return False
    kind, options = ([*entry, None, None])[:2]
    listed = (options.get("options") or []) if isinstance(options, dict) else options or []
    good = isinstance(kind, (str, list, tuple)) and isinstance(listed, (list, tuple))
    return good and (kind != CHOICE_WITH_MORE or all(isinstance(one, dict) for one in listed))


def _no_description(class_type: str, what: str, given: Any) -> InputError:
    return InputError(
        f"This ComfyUI has the node {class_type}, but describes {what} as {reprlib.repr(given)}, which no "
        "page can show. Update the pack that has this node there, or take the node out."
    )


class _Page:
    def __init__(self, drawing: dict[str, Any], info: dict[str, Any]) -> None:
        self._info, self._root = info, open_levels(drawing)
        self._links_of_setters: dict[tuple[str, ...], dict[str | None, Any]] = {}

    def prompt(self) -> Prompt:
        prompt = {}
        for level in self._root.all():
            for node_id, node in level.nodes.items():
                if node.get("mode") in (MUTED, BYPASSED) or node_id in level.inner or self._of_page(node):
                    continue
                named = self._info.get(node["type"], {}).get("display_name")
                meta = {"title": node.get("title") or named or node["type"]}
                if node["type"] not in self._info:  # whoever refuses it can say whose it is
                    pack = node.get("properties") or {}
                    meta |= {key: pack[key] for key in PACKS if isinstance(pack.get(key), str)}
                name = ":".join((*level.path, node_id))
                with _naming(name, node["type"]):
                    inputs = self._inputs(level, node_id, node)
                prompt[name] = {"class_type": node["type"], "inputs": inputs, "_meta": meta}
        return prompt

    def _of_page(self, node: dict[str, Any]) -> bool:
        kind = node["type"]
        return only_of_page(kind, self._info) or (kind not in self._info and is_label(node))

    def _inputs(self, level: Level, node_id: str, node: dict[str, Any]) -> dict[str, Any]:
        inputs, typed = {}, {}  # typed: what the page resolves {a|b} in
        for name, value, options in self._widget_values(node):
            inputs[name], typed[name] = level.values.get((node_id, name), value), declared(options)
        for entry in node.get("inputs") or []:
            name, source = entry["name"], self._source(level, entry.get("link"), entry.get("type", "*"))
            if isinstance(source, Value):
                if source.typed and not entry.get("widget"):
                    continue  # a primitive fills widgets only
                typed[name] = typed.get(name, False) and source.typed
                if source.value is not None:
                    inputs[name] = source.value
            elif source is not None:
                inputs[name], typed[name] = source, None
        for name, value in inputs.items():
            if isinstance(value, list) and typed[name] is not None:  # None: it is a link
                inputs[name] = {"__value__": value}
            elif isinstance(value, str) and typed[name]:
                inputs[name] = resolve(value)
        return inputs

    def _widget_values(self, node: dict[str, Any]) -> Iterator[Widget]:
        values = node.get("widgets_values") or []
        named = values if isinstance(values, dict) else {}
        kind = node["type"]
        return _taken(kind, widgets(self._info, kind), [] if named else list(values), named)

    def _source(self, level: Level, link: Any, kind: Any) -> list[Any] | Value | None:
        """What a link brings: [node id, slot], a value, or None where it leads nowhere."""
        seen = set()
        while link is not None:
            if (level.path, link) in seen:
                node_id = ":".join((*level.path, level.links[link][0]))
                raise InputError(f"Node {node_id} of this drawing feeds itself in a circle; cut a link.")
            seen.add((level.path, link))
            node_id, slot = level.links.get(link, ("", 0))
            if node_id == ENTRANCE and level.outer is not None:
                socket = level.entry(slot)
                if socket is None or socket.get("link") is None:
                    return Value(level.given(slot), typed=False)
                level, link, kind = level.outer, socket["link"], socket.get("type", "*")
                continue
            node = level.nodes.get(node_id)
            if node is None or node.get("mode") == MUTED:
                return None
            if node.get("mode") == BYPASSED:
                socket = _through(node, slot, str(kind))
                link, kind = (socket.get("link"), socket.get("type", "*")) if socket else (None, kind)
            elif node_id in level.inner:
                level = level.inner[node_id]
                link = level.exits.get(slot)
            elif node["type"] == PRIMITIVE:
                values = node.get("widgets_values") or [None]
                value = next(iter(values.values() if isinstance(values, dict) else values))
                return None if value is None else Value(value, typed=True)
            elif only_of_page(node["type"], self._info):
                level, link = self._passed_on(level, node_id, node, slot)
            else:
                return [":".join((*level.path, node_id)), slot]
        return None

    def _passed_on(self, level: Level, node_id: str, node: dict[str, Any], slot: int) -> tuple[Level, Any]:
        """Where to look on for what a node of the page passes on: (level, link)."""
        if not GETTER.fullmatch(node["type"]):
            sockets = (node.get("inputs") or [])[slot : slot + 1]
            return level, sockets[0].get("link") if sockets else None
        name, around = shared_name(node), level
        while name and around is not None:  # a Set node is known in its own level, and in all inside it
            if name in self._setters(around):
                return around, self._setters(around)[name]
            around = around.outer
        warn_of_no_setter(name, ":".join((*level.path, node_id)))
        return level, None

    def _setters(self, level: Level) -> dict[str | None, Any]:
        """The link that feeds each Set node of a level, by its name."""
        if level.path not in self._links_of_setters:
            found = self._links_of_setters[level.path] = {}
            for node in level.nodes.values():
                if SETTER.fullmatch(node["type"]) and node["type"] not in self._info:
                    links = [entry.get("link") for entry in node.get("inputs") or []]
                    found.setdefault(shared_name(node), links[0] if links else None)
        return self._links_of_setters[level.path]


@contextmanager
def _naming(name: str, kind: str) -> Iterator[None]:
    """Says which node of a drawing is damaged."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise FileError(
            f"Node {name} ({kind}) of this workflow's drawing is damaged: {reason}. Export the workflow "
            "again from ComfyUI."
        ) from error


def _taken(
    class_type: str,
    entries: Iterator[Widget],
    left: list[Any],
    named: dict[str, Any],
    prefix: str = "",
) -> Iterator[Widget]:
    """Widgets with their values, which are by position: `left` has those that no widget took yet.

    After a seed comes what happens to it after a run, and after a choice's control what it is filtered by.
    """
    for name, kind, options in entries:
        name, listed = prefix + name, options.get("options") or []
        choices = [one.get("key") for one in listed] if kind == CHOICE_WITH_MORE else listed
        default = options.get("default", choices[0] if choices else EMPTY.get(str(kind)))
        value = left.pop(0) if left else named.get(name, default)
        control = options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed"))
        if control and left and left[0] in CONTROLS:
            del left[: 1 if kind in ("INT", "FLOAT") else 2]
        yield name, value, options
        if kind == CHOICE_WITH_MORE and value in choices:
            more = _with_widgets(class_type, listed[choices.index(value)].get("inputs") or {})
            yield from _taken(class_type, more, left, named, f"{name}.")


def _through(node: dict[str, Any], slot: int, kind: str) -> dict[str, Any] | None:
    """The socket that a bypassed node passes on: at the same slot, of the same type, or one that fits."""
    inputs, outputs = node.get("inputs") or [], node.get("outputs") or []
    if kind in ("*", ""):
        return next(iter(inputs[slot : slot + 1] or inputs[:1]), None)
    output = str(outputs[slot]["type"]) if slot < len(outputs) else "*"
    fitting = [e for e in inputs if fits(str(e["type"]), output) and fits(str(e["type"]), kind)]
    same_slot = [entry for entry in inputs[slot : slot + 1] if entry in fitting]
    return next(iter([*same_slot, *(e for e in inputs if e["type"] == kind), *fitting]), None)
