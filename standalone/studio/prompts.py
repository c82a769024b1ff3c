"""Reads and checks what the page wants to run; a refusal is in sentences that the page shows on the nodes."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from aiohttp import web

from ...sana_video_core.errors import InputError
from ..engine.core_nodes import SHOWN
from ..engine.graph import Prompt, RefusedError, Validation
from .jobs import needed


class Asked(NamedTuple):
    prompt: Prompt
    extra: dict[str, Any]  # what is saved with a result: extra_pnginfo
    node_errors: dict[str, Any]  # of the outputs that are left out


def read_asked(body: dict[str, Any], classes: dict[str, Any]) -> Asked:
    """Raises web.HTTPBadRequest, with ComfyUI's description of what is wrong as its text."""
    prompt, extra = _nodes(body.get("prompt")), _extra(body.get("extra_data"))
    if targets := body.get("partial_execution_targets"):
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise _refusal("no_prompt", "The nodes to run have to be a list of ids.")
        prompt = needed(prompt, targets)
    strange = [node_id for node_id, node in prompt.items() if node.get("class_type") not in classes]
    if strange:
        raise _missing(prompt, strange, extra.get("workflow") or {})
    try:
        return Asked(prompt, extra, _node_errors(prompt, Validation(prompt, classes).problems))
    except RefusedError as error:
        marks = _node_errors(prompt, error.problems)
        # the page has a text for both
        kind = "prompt_outputs_failed_validation" if marks else "prompt_no_outputs"
        raise _refusal(kind, str(error), marks) from error
    except (InputError, RecursionError, OverflowError, TypeError) as error:
        raise _refusal("invalid_prompt", f"This graph cannot be checked: {error}.") from error


def _nodes(prompt: Any) -> Prompt:
    good = isinstance(prompt, dict) and all(
        isinstance(node, dict)
        and isinstance(node.get("inputs"), dict)
        and isinstance(node.get("class_type", ""), str)
        and isinstance(node.get("_meta", {}), dict)
        for node in prompt.values()
    )
    if good:
        return prompt
    raise _refusal("no_prompt", "This is no workflow: it has no nodes with a class and inputs.")


def _extra(data: Any) -> dict[str, Any]:
    """extra_pnginfo, with a drawing that has nodes or none at all."""
    extra = data.get("extra_pnginfo") if isinstance(data, dict) else data
    drawing = extra.get("workflow") if isinstance(extra, dict) else extra
    nodes = drawing.get("nodes", []) if isinstance(drawing, dict) else drawing
    if nodes is None or (isinstance(nodes, list) and all(isinstance(node, dict) for node in nodes)):
        return extra if isinstance(extra, dict) else {}
    raise _refusal("no_prompt", "What comes with this prompt (extra_data) is no workflow.")


def _missing(prompt: Prompt, strange: list[str], drawing: dict[str, Any]) -> web.HTTPBadRequest:
    """Marks ComfyUI's nodes that are only shown here; the page itself marks those of other packs.

    The page leaves out a class that it doesn't know; then the drawing has it.
    """
    drawn = {str(node.get("id")): node.get("type") for node in drawing.get("nodes", [])}
    kinds = {i: str(prompt[i].get("class_type") or drawn.get(i) or f"(node {i})") for i in strange}
    foreign, unknown = (
        sorted({k for k in kinds.values() if (k in SHOWN) is shown}) for shown in (True, False)
    )
    names = ", ".join(foreign)
    words = f"Only a real ComfyUI runs {names}. Start one with this pack, and open the workflow there."
    marks = _node_errors(prompt, {node_id: [words] for node_id, kind in kinds.items() if kind in foreign})
    if unknown:
        words = f"There is no node {', '.join(unknown)} here: the studio has the nodes of SANA-Video alone."
    return _refusal("missing_node_type", words, marks)


def _node_errors(prompt: Prompt, problems: dict[str, list[str]]) -> dict[str, Any]:
    """Problems by node, as the page shows them."""
    return {
        node_id: {
            "class_type": prompt[node_id]["class_type"],
            "dependent_outputs": [],
            "errors": [_error(text) for text in texts],
        }
        for node_id, texts in problems.items()
    }


def _error(text: str) -> dict[str, Any]:
    """An error of the one kind whose details the page shows unchanged, beside the input's name."""
    text, named = text.rstrip(".") + ".", re.match("“(.+?)”", text)
    extra = {"input_name": named[1]} if named else {}
    return {"type": "custom_validation_failed", "message": text, "details": text, "extra_info": extra}


def _refusal(kind: str, words: str, marks: dict[str, Any] | None = None) -> web.HTTPBadRequest:
    error = {"type": kind, "message": words, "details": "", "extra_info": {}}
    text = json.dumps({"error": error, "node_errors": marks or {}})
    return web.HTTPBadRequest(text=text, content_type="application/json")
