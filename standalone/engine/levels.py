"""A drawing and the subgraphs that it uses: each use is a level of its own, with nodes and links."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from typing import Any

from ...sana_video_core.errors import FileError, InputError

ENTRANCE, EXIT = "-10", "-20"  # the ids of a subgraph's own ends
MUTED, BYPASSED = 2, 4
DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,  # an infinite number
)  # what reading a damaged drawing raises
MOST_NODES = 20_000  # more than anybody draws: subgraphs in subgraphs multiply


class Level:
    """The root of a drawing, or one use of a subgraph in the level around it."""

    def __init__(
        self, drawing: dict[str, Any], path: tuple[str, ...] = (), outer: Level | None = None
    ) -> None:
        self.path, self.outer = path, outer
        self.nodes = _nodes(drawing["nodes"])
        self.links: dict[Any, tuple[str, int]] = {}  # where a link comes from: (node, slot)
        self.exits: dict[int, Any] = {}  # the link that leads to each output of a subgraph
        for number, origin, slot, target, target_slot in _links(drawing.get("links")):
            self.links[number] = (str(origin), int(slot))
            if str(target) == EXIT:
                self.exits.setdefault(target_slot, number)
        self.inner: dict[str, Level] = {}
        self.values: dict[tuple[str, str], Any] = {}  # that the node around shows for nodes in here
        self._names = [entry["name"] for entry in drawing.get("inputs") or []] if outer else []
        self._given: dict[
            str, Any
        ] = {}  # values of a subgraph's inputs: the node around has widgets for them
        if outer is not None:
            self._read_host()

    @property
    def host(self) -> dict[str, Any]:
        """The node around it, of the level around it."""
        return self.outer.nodes[self.path[-1]] if self.outer else {}

    def _read_host(self) -> None:
        """The values of the widgets that the node around shows: by name, or in one of two orders."""
        values = self.host.get("widgets_values") or []
        proxies = (self.host.get("properties") or {}).get("proxyWidgets") or []
        if isinstance(values, dict):
            self._given = values
        elif proxies:
            for (node_id, name, *_), value in zip(proxies, values, strict=False):
                if value is not None:
                    self.values[str(node_id), str(name)] = value
            self._given = {name: value for (node_id, name), value in self.values.items() if node_id == "-1"}
        else:
            self._given = {n: v for n, v in zip(self._shown(), values, strict=False) if v is not None}

    def _shown(self) -> list[str]:
        """The inputs for which the node around has a widget: those that feed a widget in here."""
        sockets = [entry for node in self.nodes.values() for entry in node.get("inputs") or []]
        fed = {self.links.get(entry.get("link")) for entry in sockets if entry.get("widget")}
        return [name for slot, name in enumerate(self._names) if (ENTRANCE, slot) in fed]

    def entry(self, slot: int) -> dict[str, Any] | None:
        """The socket of the node around that feeds an input of this subgraph."""
        sockets = [e for e in self.host.get("inputs") or [] if e.get("name") == self._names[slot]]
        return sockets[0] if sockets else None

    def given(self, slot: int) -> Any:
        """The value that the node around gives to an input; None where the inner widget's own counts."""
        name = self._names[slot]
        outer = self.outer.values if self.outer else {}
        return outer.get((self.path[-1], name), self._given.get(name))

    def all(self) -> Iterator[Level]:
        """This level and all that are in use inside it."""
        levels: list[Level] = [self]
        for level in levels:  # grows during the loop
            yield level
            levels += level.inner.values()


def open_levels(drawing: dict[str, Any]) -> Level:
    """The root, with every subgraph that is in use. Raises InputError where they have no end."""
    definitions = _definitions(drawing)
    root = Level(drawing)
    waiting: list[tuple[Level, tuple[Any, ...]]] = [(root, ())]
    count = len(root.nodes)
    for level, chain in waiting:  # grows during the loop
        for node_id, node in level.nodes.items():
            kind = node["type"]
            if kind not in definitions or node.get("mode") in (MUTED, BYPASSED):
                continue
            inside = definitions[kind]
            name = inside.get("name") or kind
            count += len(inside["nodes"])
            if kind in chain or count > MOST_NODES:
                reason = "contains itself" if kind in chain else f"makes more than {MOST_NODES:,} nodes"
                raise InputError(
                    f"The subgraph “{name}” {reason}. Open the workflow in ComfyUI and undo that."
                )
            level.inner[node_id] = Level(inside, (*level.path, node_id), level)
            waiting.append((level.inner[node_id], (*chain, kind)))
    return root


def drawn_nodes(drawing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All nodes by the ids that they have in a prompt; none of a drawing that is damaged."""
    try:
        levels = [*open_levels(drawing).all()]
    except (FileError, *DAMAGE):
        return {}
    return {":".join((*level.path, i)): node for level in levels for i, node in level.nodes.items()}


def _nodes(nodes: Any) -> dict[str, dict[str, Any]]:
    """By id. Raises FileError for one without an id or a type; what is no node is passed over."""
    found = {}
    for place, node in enumerate(nodes):
        if not isinstance(node, dict):
            continue
        missing = next((name for name in ("id", "type") if node.get(name) is None), None)
        if missing or not isinstance(node["type"], str):
            name = f"{node.get('type')} at place {place + 1}" if missing == "id" else node["id"]
            wrong = f"has no {missing}" if missing else f"is of the type {reprlib.repr(node['type'])}"
            raise FileError(
                f"Node {name} of this workflow's drawing is damaged: it {wrong}. Export the workflow again "
                "from ComfyUI."
            )
        found[str(node["id"])] = node
    return found


def _definitions(drawing: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    held = drawing.get("definitions")
    listed = held.get("subgraphs") if isinstance(held, dict) else None
    return {entry["id"]: entry for entry in listed or [] if isinstance(entry, dict)}


def _links(links: Any) -> Iterator[tuple[Any, Any, int, Any, int]]:
    """(number, from node, slot, to node, slot). Hands and tools leave holes, which the page passes over."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    for link in links.values() if isinstance(links, dict) else links or []:
        if isinstance(link, dict):
            yield tuple(link[name] for name in names)  # pyright: ignore[reportReturnType]
        elif link is not None:
            number, origin, slot, target, target_slot, *_ = link
            yield number, origin, slot, target, target_slot
