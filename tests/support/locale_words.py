"""The words of the nodes as ComfyUI's page looks them up in a pack's locales/LANGUAGE/nodeDefs.json."""

from __future__ import annotations

from typing import Any


def english(nodes: Any) -> dict[str, Any]:
    """Every node's words in English, from its schema."""
    return {info["name"]: _node(info) for info in (node.GET_NODE_INFO_V1() for node in nodes)}


def _node(info: dict[str, Any]) -> dict[str, Any]:
    inputs = {
        name: {"name": name, "tooltip": details["tooltip"]}
        for kind in ("required", "optional")
        for name, (_, details) in info["input"].get(kind, {}).items()
    }
    outputs = {
        str(index): {"name": name, "tooltip": tooltip}
        for index, (name, tooltip) in enumerate(
            zip(info["output_name"], info["output_tooltips"], strict=True)
        )
    }
    words = {"display_name": info["display_name"], "description": info["description"], "inputs": inputs}
    return words | ({"outputs": outputs} if outputs else {})
