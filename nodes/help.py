"""Descriptions and tooltips for the nodes, from their help pages in web/docs."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

from comfy_api.latest import io

PAGES = Path(__file__).parents[1] / "web" / "docs"


class Page(NamedTuple):
    title: str
    description: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@functools.cache  # ComfyUI asks for a schema many times
def page(node_id: str) -> Page:
    """The parts of a help page that a schema needs: title, first paragraph, and both tables."""
    text = (PAGES / f"{node_id}.md").read_text(encoding="utf-8")
    head = re.match(r"# (.+)\n\n((?:.+\n)+)", text)
    assert head is not None, f"{node_id}.md begins with a title and a paragraph"
    tables = [dict(re.findall(r"^\| (\w+) \| (.+) \|$", part, re.M)) for part in text.split("\n## ")[1:3]]
    return Page(head[1], " ".join(head[2].split()), *tables)


def schema(node_id: str, category: str, inputs: list[Any], outputs: list[Any], **options: Any) -> io.Schema:
    """A Schema with the words of the help page. Raises KeyError if the page lacks an input or output."""
    words = page(node_id)
    for item in inputs:
        item.tooltip = words.inputs[item.id]
    for item in outputs:
        item.tooltip = words.outputs[item.display_name]
    return io.Schema(
        node_id=node_id,
        display_name=words.title,
        description=words.description,
        category=f"SANA-Video/{category}",
        inputs=inputs,
        outputs=outputs,
        **options,
    )
