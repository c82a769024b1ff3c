"""Where the nodes of a workflow lie: in columns of equal height, each node with the room that it may need."""

from __future__ import annotations

from typing import Any, NamedTuple

from .room import TITLE

HEAD, INSIDE = 60, 15  # a group's title, with a node's badge below it; its border
BETWEEN, APART = (
    35,
    30,
)  # between nodes: the canvas draws a badge of 20 there, errors as rings; between groups
Node = dict[str, Any]


class Box(NamedTuple):
    """A node, the height that it may come to, and whether it takes what is left of a column."""

    node: Node
    full: int
    roomy: bool


class Frame(NamedTuple):
    """A group of nodes, one below the other; without a title, a node that stands for itself."""

    title: str
    color: str
    width: int
    boxes: list[Box]

    def head(self) -> int:
        return HEAD if self.title else 0

    def border(self) -> int:
        return INSIDE if self.title else 0

    def height(self) -> int:
        nodes = sum(TITLE + box.full for box in self.boxes) + BETWEEN * (len(self.boxes) - 1)
        return self.head() + nodes + self.border()

    def growing(self) -> Box | None:
        return next((box for box in reversed(self.boxes) if box.roomy), None)

    def place(self, x: int, y: int, spare: int) -> list[int]:
        """Place the nodes below (x, y), `spare` higher than they need; the frame's bounds."""
        down = y + self.head()
        for box in self.boxes:
            box.node["pos"] = [x + self.border(), down + TITLE]
            down += TITLE + box.full + BETWEEN
            if box is self.growing():
                box.node["size"][1] = box.full + spare
                down += spare
        return [x, y, self.width + 2 * self.border(), self.height() + spare]


def arrange(columns: list[list[Frame]]) -> list[dict[str, Any]]:
    """Give every node its place; the groups as a file lists them."""
    heights = [sum(frame.height() for frame in column) + APART * (len(column) - 1) for column in columns]
    groups, x = [], 0
    for column, height in zip(columns, heights, strict=True):
        growing = [frame for frame in column if frame.growing()] or column
        y, right = 0, x
        for frame in column:
            spare = (max(heights) - height) // len(growing) if frame in growing else 0
            bounds = frame.place(x, y, spare)
            y, right = bounds[1] + bounds[3] + APART, max(right, x + bounds[2])
            if frame.title:
                group = {"id": len(groups) + 1, "title": frame.title, "bounding": bounds}
                groups.append(group | {"color": frame.color, "font_size": 24, "flags": {}})
        x = right + APART
    return groups
