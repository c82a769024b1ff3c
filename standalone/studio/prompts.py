"""Reads and checks what the page wants to run; a refusal is in sentences that the page shows on the nodes."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from aiohttp import web

from ...sana_video_core.errors import InputError
from ..engine.core_nodes import SHOWN
from ..engine.graph import Prompt, RefusedError, Validation
from ..engine.levels import drawn_nodes
from ..engine.page_nodes import PACKS, without_page_nodes
from ..engine.strangers import STUDIO, strangers
from .jobs import needed


class Asked(NamedTuple):
    prompt: Prompt
    extra: dict[str, Any]  # what is saved with a result: extra_pnginfo
    node_errors: dict[str, Any]  # of the outputs that are left out
    previews: str | None  # none, auto, latent2rgb, taesd; None for the usual one


def read_asked(body: dict[str, Any], classes: dict[str, Any]) -> Asked:
    """Raises web.HTTPBadRequest, with ComfyUI's description of what is wrong as its text."""
    prompt, extra = _nodes(body.get("prompt")), _extra(body.get("extra_data"))
    drawn = drawn_nodes(extra.get("workflow") or {})
    try:
        prompt = without_page_nodes(prompt, drawn, classes)
    except InputError as error:
        raise _refusal("invalid_prompt", str(error)) from error
    if targets := body.get("partial_execution_targets"):
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise _refusal("no_prompt", "The nodes to run have to be a list of ids.")
        prompt = needed(prompt, targets)
    _refuse_unknown(prompt, drawn, classes)
    try:
        marks = _node_errors(prompt, Validation(prompt, classes).problems)
        return Asked(prompt, extra, marks, _previews(body.get("extra_data")))
    except RefusedError as error:
        marks = _node_errors(prompt, error.problems)
        # the page has a text for both
        kind = "prompt_outputs_failed_validation" if marks else "prompt_no_outputs"
        raise _refusal(kind, str(error), marks) from error
    except (InputError, RecursionError, OverflowError, TypeError) as error:
        words = f"This graph cannot be checked: {str(error).rstrip('.')}."
        raise _refusal("invalid_prompt", words) from error


def _nodes(prompt: Any) -> Prompt:
    good = isinstance(prompt, dict) and all(
        isinstance(node, dict)
        and isinstance(node.get("inputs"), dict)
        and isinstance(node.get("class_type") or "", str)
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


def _previews(data: Any) -> str | None:
    method = data.get("preview_method") if isinstance(data, dict) else None
    return method if isinstance(method, str) else None


def _refuse_unknown(prompt: Prompt, drawn: dict[str, dict[str, Any]], classes: dict[str, Any]) -> None:
    """Raises web.HTTPBadRequest, and marks ComfyUI's own nodes; the page itself marks those of other packs.

    The page leaves out a class that it doesn't know; then the drawing has it, and its pack.
    """
    described = {i: _described(node, drawn.get(i, {})) for i, node in prompt.items()}
    if unknown := strangers(described, classes, STUDIO):
        words_of = {i: [words] for words, ids in unknown.items() for i in ids}
        marks = {i: words for i, words in words_of.items() if described[i]["class_type"] in SHOWN}
        raise _refusal("missing_node_type", "\n".join(unknown), _node_errors(described, marks))


def _described(node: dict[str, Any], drawn: dict[str, Any]) -> dict[str, Any]:
    """A node with the class and the pack that the drawing names."""
    pack, meta = drawn.get("properties"), node.get("_meta")
    named = {key: pack[key] for key in PACKS if key in pack} if isinstance(pack, dict) else {}
    kind = node.get("class_type") or drawn.get("type")
    return {**node, "class_type": kind, "_meta": {**named, **(meta if isinstance(meta, dict) else {})}}


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
