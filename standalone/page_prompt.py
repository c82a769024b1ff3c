"""What the page asks to run: read, checked, and refused in sentences that the page paints on the nodes."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from aiohttp import web

from ..sana_video_core.errors import InputError
from .core_nodes import SHOWN
from .graph import Prompt, RefusedError, Validation
from .jobs import needed


class Asked(NamedTuple):
    prompt: Prompt
    extra: dict[str, Any]  # what is saved with a result: extra_pnginfo
    node_errors: dict[str, Any]  # of outputs that are left out


def read_asked(body: Any, classes: dict[str, Any]) -> Asked:
    """Raises web.HTTPBadRequest, with ComfyUI's description of what is wrong as its text."""
    prompt = body.get("prompt") if isinstance(body, dict) else None
    if not isinstance(prompt, dict) or not all(
        isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in prompt.values()
    ):
        raise _refusal("no_prompt", "This is no workflow: it has no nodes with inputs.")
    if targets := body.get("partial_execution_targets"):
        prompt = needed(prompt, targets)
    extra = (body.get("extra_data") or {}).get("extra_pnginfo") or {}
    strange = [node_id for node_id, node in prompt.items() if node.get("class_type") not in classes]
    if strange:
        raise _missing(prompt, strange, extra.get("workflow") or {})
    try:
        return Asked(prompt, extra, _node_errors(prompt, Validation(prompt, classes).problems))
    except RefusedError as error:
        marks = _node_errors(prompt, error.problems)
        raise _refusal("prompt_outputs_failed_validation", str(error), marks) from error
    except InputError as error:
        raise _refusal("invalid_prompt", str(error)) from error


def _missing(prompt: Prompt, strange: list[str], drawing: dict[str, Any]) -> web.HTTPBadRequest:
    """Nodes of ComfyUI that are only shown here are marked; those of other packs the page marks itself.

    The page leaves out a class that it does not know; then the drawing has it.
    """
    drawn = {str(node.get("id")): node.get("type") for node in drawing.get("nodes", [])}
    kinds = {i: str(prompt[i].get("class_type") or drawn.get(i) or f"(node {i})") for i in strange}
    foreign, unknown = (
        sorted({k for k in kinds.values() if (k in SHOWN) is shown}) for shown in (True, False)
    )
    words = f"Only a real ComfyUI runs {', '.join(foreign)}. Start one with this pack, and open the workflow there."
    marks = _node_errors(prompt, {node_id: [words] for node_id, kind in kinds.items() if kind in foreign})
    if unknown:
        words = f"There is no node {', '.join(unknown)} here: the studio has the nodes of SANA-Video alone."
    return _refusal("missing_node_type", words, marks)


def _node_errors(prompt: Prompt, problems: dict[str, list[str]]) -> dict[str, Any]:
    """Problems by node, as the page paints them."""
    return {
        node_id: {
            "class_type": prompt[node_id]["class_type"],
            "dependent_outputs": [],
            "errors": [
                {"type": "refused", "message": text, "details": "", "extra_info": {}} for text in texts
            ],
        }
        for node_id, texts in problems.items()
    }


def _refusal(kind: str, words: str, marks: dict[str, Any] | None = None) -> web.HTTPBadRequest:
    error = {"type": kind, "message": words, "details": "", "extra_info": {}}
    text = json.dumps({"error": error, "node_errors": marks or {}})
    return web.HTTPBadRequest(text=text, content_type="application/json")
