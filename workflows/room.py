"""How high the page may draw a node.

Two renderers draw the same file: the canvas, and Vue (“Nodes 2.0”). In both a node grows when it has
something to show. The numbers were measured in frontend 1.47.10 and 1.58.1; tests/browser/test_layout.py
measures again.
Heights are without the title, as a file's `size`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

TITLE = 30
FOOTER = 24  # Vue's bar below a node: its errors, its advanced inputs
BADGE = 24  # the pack's name: Vue's last row; the canvas draws it above the title
PICTURE = 250  # a live preview or an image, with its size: 220 and more on the canvas, 248 by Vue
FILM = 320  # a video with its controls
# progress, warnings, errors: six lines on the canvas, where more scroll, and four by Vue
TEXT_ON_CANVAS, TEXT_BY_VUE = 126, 70
REPORTS = ("SanaVideoStateInfo", "SanaVideoLongVideo")
REPORT_BY_VUE = 270  # 20 lines, of State Info or a film's plan; Vue never scrolls them

SHOWN = {
    "KSampler": PICTURE,
    "LoadImage": PICTURE,
    "SamplerCustomAdvanced": PICTURE,
    "SanaVideoBlockSampler": PICTURE,
    "SanaVideoDecodeStream": PICTURE,
    "SanaVideoLongVideo": FILM + 50,  # Vue draws a plan of 20 lines and the film
    "SanaVideoSampler": PICTURE,
    "SanaVideoStateInfo": PICTURE,
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
        widgets = 24 * (self.rows + self.controls) + 54 * self.boxes
        return 6 + 20 * self.slots + widgets + (8 if widgets else 0)

    def full(self) -> int:
        """In either renderer, with all that it may ever show."""
        ours = self.kind.startswith("SanaVideo")
        vue = 14 + 20 * self.slots + 28 * (self.rows - self.hidden) + 68 * self.boxes + FOOTER + BADGE * ours
        text = REPORT_BY_VUE if self.kind in REPORTS else TEXT_BY_VUE
        return SHOWN.get(self.kind, 0) + max(self.closed() + TEXT_ON_CANVAS * ours, vue + text * ours)

    def roomy(self) -> bool:
        """Whether the node is worth looking at, so that it has its full room from the beginning.

        Not State Info: Vue of 1.58 draws a picture as high as its node was, and adds the text.
        """
        return bool(self.boxes or self.kind in SHOWN) and self.kind != "SanaVideoStateInfo"


def content(kind: str, inputs: list[Any], outputs: int) -> Content:
    """`inputs`: build.Entry of each input."""
    widgets = [entry for entry in inputs if entry.widget]
    boxes = sum(bool(entry.options.get("multiline")) for entry in widgets)
    hidden = sum(bool(entry.options.get("advanced")) for entry in widgets)
    controls = sum("control_after_generate" in entry.options for entry in widgets)
    slots = max(len(inputs) - len(widgets), outputs)
    return Content(kind, slots, len(widgets) - boxes, hidden, controls, boxes)
