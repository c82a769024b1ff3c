"""Nodes that only ComfyUI's page knows: notes, labels, reroutes, primitives, and other packs' Set and Get.

They never reach a server. The page leaves them out, and links what they stand for directly.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from ...sana_video_core.errors import InputError
from .graph import Prompt, is_link, title

PRIMITIVE = "PrimitiveNode"
OF_THE_PAGE = {"Note", "MarkdownNote", "Reroute", PRIMITIVE}
_RGTHREE = (
    "Label, Bookmark, Reroute, Fast Muter, Fast Bypasser, Fast Groups Muter, Fast Groups Bypasser, "
    "Fast Actions Button, Node Collector, Mute / Bypass Relay, Mute / Bypass Repeater, Random Unmuter"
)
OF_PACKS = {f"{name} (rgthree)" for name in _RGTHREE.split(", ")} | {"Note Plus (mtb)", "Note+ (mtb)"}
SETTER = re.compile(r"(?:\w+[ .])?(?:GG)?[Ss]etNode")  # KJNodes, Easy-Use, diffus3, and their kind
GETTER = re.compile(r"(?:\w+[ .])?(?:GG)?[Gg]etNode")
LABEL = re.compile(r"note|label|comment|markdown|bookmark|heading|muter|bypasser|manager", re.IGNORECASE)
PACKS = ("cnr_id", "aux_id")  # which pack a drawn node is of: in the registry, on GitHub

log = logging.getLogger("sana_video")


def only_of_page(kind: str, known: Any) -> bool:
    """`known`: classes of whoever runs the prompt. A pack may have a real node of one of these names."""
    named = kind in OF_PACKS or SETTER.fullmatch(kind) or GETTER.fullmatch(kind)
    return kind in OF_THE_PAGE or (bool(named) and kind not in known)


def is_label(node: dict[str, Any]) -> bool:
    """Whether a drawn node of an unknown kind is a label of some pack: by its name, and without sockets."""
    pack = node.get("properties")
    named = isinstance(pack, dict) and any(pack.get(key) for key in PACKS)
    return bool(LABEL.search(str(node.get("type")))) and not (
        node.get("inputs") or node.get("outputs") or named
    )


def shared_name(node: dict[str, Any]) -> str | None:
    """The name under which a drawn Set node offers what it is given, and a Get node takes it."""
    values = node.get("widgets_values")
    values = list(values.values()) if isinstance(values, dict) else values
    name = values[0] if isinstance(values, list) and values else None
    if isinstance(name, str) and name:
        return name
    named = re.fullmatch(r"(?:Set|Get)_(.+)", str(node.get("title") or ""))
    return named[1] if named else None


def warn_of_no_setter(name: str | None, node_id: str) -> None:
    log.warning(
        f"The Get node {node_id} asks for “{name or ''}”, but no Set node has this name: it gives nothing."
    )


def without_page_nodes(prompt: Prompt, drawn: dict[str, dict[str, Any]], known: Any) -> Prompt:
    """A prompt as the page posts it where it doesn't know these nodes: what they stand for, in their place.

    `drawn`: the nodes of the drawing that came with it, which have the types that the page left out.
    """
    kinds = {i: str(node.get("class_type") or drawn.get(i, {}).get("type")) for i, node in prompt.items()}
    linked = {v[0] for node in prompt.values() for v in node["inputs"].values() if is_link(v)}
    page = {i for i, kind in kinds.items() if only_of_page(kind, known)}
    page |= {i for i in drawn.keys() & kinds if kinds[i] not in known and is_label(drawn[i])} - linked
    if not page:
        return prompt
    names = {i: shared_name(drawn.get(i) or _as_drawn(prompt[i])) for i in page}
    setters = {(_around(i), names[i]): i for i in page if names[i] and SETTER.fullmatch(kinds[i])}

    def source(value: Any) -> Any:
        seen: list[str] = []
        while is_link(value) and value[0] in page:
            node_id = value[0]
            if node_id in seen:
                raise InputError(f"{title(prompt, node_id)} feeds itself in a circle; cut a link.")
            seen.append(node_id)
            if GETTER.fullmatch(kinds[node_id]):
                scopes = [_around(node_id)]
                while scopes[-1]:  # a Set node is known in its own subgraph, and in all inside it
                    scopes.append(_around(scopes[-1]))
                found = [setters[key] for scope in scopes if (key := (scope, names[node_id])) in setters]
                if not found:
                    warn_of_no_setter(names[node_id], node_id)
                    return None
                node_id = found[0]
            inputs = prompt[node_id]["inputs"].values()
            values = [v for v in inputs if is_link(v) is not (kinds[node_id] == PRIMITIVE)]
            value = values[0] if values else None
        return value

    left = {i: node for i, node in prompt.items() if i not in page}
    return {i: {**node, "inputs": _without_none(node["inputs"], source)} for i, node in left.items()}


def _around(node_id: str) -> str:
    """The id of the subgraph around a node; "" at the top."""
    return node_id.rpartition(":")[0]


def _as_drawn(node: dict[str, Any]) -> dict[str, Any]:
    """What a node of a prompt would look like in a drawing, as far as its name is concerned."""
    texts = [value for value in node["inputs"].values() if isinstance(value, str)]
    named = node.get("_meta")
    return {"widgets_values": texts, "title": named.get("title") if isinstance(named, dict) else None}


def _without_none(inputs: dict[str, Any], source: Any) -> dict[str, Any]:
    resolved = {name: (value, source(value)) for name, value in inputs.items()}
    return {name: new for name, (old, new) in resolved.items() if new is not None or old is None}
