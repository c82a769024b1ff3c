"""How high the page may draw a node.

Two renderers draw the same file: the canvas, and Vue (“Nodes 2.0”). In both a node grows when it has
something to show. The numbers were measured in frontend 1.47.10 and 1.58.1; tests/browser/test_layout.py
measures again.
Heights are without the title, as a file's `size`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

TITLE = 30
BOX = 120  # a text of some lines
PICTURE = 250  # a live preview or an image: 220 on the canvas, 248 by Vue
STRIP = 400  # State Info's, of eight chunks
FILM = 320  # a video with its controls
TEXT = 115  # progress, warnings, errors: six lines, and more that scroll
FOOTER = 24  # Vue's bar below a node: its errors, its advanced inputs
BADGE = 24  # the pack's name: Vue's last row; the canvas draws it above the title

SHOWN = {
    "KSampler": PICTURE,
    "LoadImage": PICTURE,
    "SamplerCustomAdvanced": PICTURE,
    "SanaVideoBlockSampler": PICTURE,
    "SanaVideoStateInfo": STRIP,
    "SaveVideo": FILM,
}


class Content(NamedTuple):
    """What a node of this class always has."""

    kind: str
    slots: int  # rows of sockets
    rows: int  # widgets of one line
    hidden: int  # of them, those that Vue folds away
    controls: int  # and those that it draws in the row of their number
    boxes: int  # texts of some lines

    def closed(self) -> int:
        """On the canvas, with nothing to show."""
        rows = self.rows + self.controls
        return 6 + 20 * self.slots + 24 * rows + BOX * self.boxes + (8 if rows + self.boxes else 0)

    def full(self) -> int:
        """In either renderer, with all that it may ever show."""
        ours = self.kind.startswith("SanaVideo")
        vue = 14 + 20 * self.slots + 28 * (self.rows - self.hidden) + BOX * self.boxes + FOOTER + BADGE * ours
        return max(self.closed(), vue) + SHOWN.get(self.kind, 0) + TEXT * ours

    def roomy(self) -> bool:
        """Whether the node is worth looking at, so that it has its full room from the beginning."""
        return bool(self.boxes or self.kind in SHOWN)


def content(kind: str, inputs: list[Any], outputs: int) -> Content:
    """`inputs`: build.Entry of each input."""
    widgets = [entry for entry in inputs if entry.widget]
    boxes = sum(bool(entry.options.get("multiline")) for entry in widgets)
    hidden = sum(bool(entry.options.get("advanced")) for entry in widgets)
    controls = sum("control_after_generate" in entry.options for entry in widgets)
    slots = max(len(inputs) - len(widgets), outputs)
    return Content(kind, slots, len(widgets) - boxes, hidden, controls, boxes)
