"""Reads workflow files, turns them into prompts as ComfyUI's page does, and applies --set and --demo.

A file is either a prompt (API format) or a drawing of nodes and links (what the page saves).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...sana_video_core.config import FAMILIES, SANA_VIDEO_480P
from ...sana_video_core.errors import FileError, InputError
from ...sana_video_core.files.text_file import decode_text
from .drawing import prompt_of, widgets
from .dynamic_prompts import declared, resolve
from .graph import Prompt, is_link, title
from .levels import DAMAGE
from .page_nodes import without_page_nodes

MARK = "\ufeff"  # the byte-order mark, which a shell takes over from a file
DEMO = "demo (built in)"
LOADERS = {"SanaVideoModelLoader": "model_name", "SanaVideoTextEncoderLoader": "encoder_name"}
LOADERS |= {"SanaVideoVAELoader": "vae_name"}


def read_workflow(path: Path) -> dict[str, Any]:
    try:
        text = decode_text(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        reason = "it is no text in UTF-8" if isinstance(error, UnicodeError) else error
        raise FileError(
            f"The workflow “{path}” cannot be read: {getattr(error, 'strerror', None) or reason}."
        ) from error
    try:
        workflow = json.loads(text)
        if r"\ud" in text.lower():  # half of an emoji, which nothing can print or encode, becomes “?”
            workflow = json.loads(json.dumps(workflow, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        workflow = None
    if isinstance(workflow, dict) and (isinstance(workflow.get("nodes"), list) or _is_prompt(workflow)):
        return workflow
    raise FileError(
        f"“{path}” is no workflow. Export one from ComfyUI (Save, or Export API), or take one of ours."
    )


def _is_prompt(workflow: dict[str, Any]) -> bool:
    """Whether these are nodes with inputs; a page exports nodes of packs that it hasn't without a class."""
    nodes = [*workflow.values()]
    good = all(isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in nodes)
    kinds = [node.get("class_type") for node in nodes] if good else []
    return any(kinds) and all(kind is None or isinstance(kind, str) for kind in kinds)


def to_prompt(workflow: dict[str, Any], info: dict[str, Any]) -> Prompt:
    """`info`: /object_info of the nodes that will run it."""
    try:
        if "nodes" in workflow:
            return prompt_of(workflow, info)
        prompt = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in workflow.items()}
        return without_page_nodes(prompt, {}, info)
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise FileError(
            f"This workflow's drawing is damaged ({error!r}). Export it again from ComfyUI."
        ) from error


def apply_demo(prompt: Prompt) -> None:
    """Choose the built-in demo set in every loader of ours, its size for large videos, its motion score."""
    small = FAMILIES["demo"]
    for node in prompt.values():
        inputs, kind = node["inputs"], node.get("class_type")
        if kind in LOADERS:
            inputs[LOADERS[kind]] = DEMO
            family = FAMILIES.get(str(inputs.get("family")))
            clips = family is not None and not family.causal
            inputs |= {"family": SANA_VIDEO_480P.name if clips else "auto"} if "family" in inputs else {}
        if kind in ("SanaVideoTextEncode", "SanaVideoLongVideo") and not is_link(inputs.get("motion_score")):
            inputs["motion_score"] = small.motion_score
        if kind == "SanaVideoSampler" and "negative" not in inputs and inputs.get("cfg") == 0:
            inputs["cfg"] = 1  # drawn for a model without guidance, and the demo's own cfg needs a negative
        if kind in ("SanaVideoStart", "SanaVideoEmptyLatent", "SanaVideoLongVideo"):
            for name, most in (("width", small.width), ("height", small.height)):
                inputs[name] = (
                    min(inputs[name], most) if isinstance(inputs.get(name), int) else inputs.get(name, most)
                )


def apply_setting(prompt: Prompt, setting: str, info: dict[str, Any]) -> None:
    """NODE.INPUT=VALUE; NODE is an id, or a title or class name that only one node has.

    The value counts as typed into the page: its {a|b} are resolved.
    """
    target, equals, text = setting.removeprefix(MARK).partition("=")
    name, _, field = target.rpartition(".")
    if not (name and field and equals):
        raise InputError(f"“{setting}” is no setting. Write NODE.INPUT=VALUE, for example 3.seed=7.")
    node_id = _named(prompt, name)
    known = {key: (kind, options) for key, kind, options in widgets(info, prompt[node_id].get("class_type"))}
    if field not in known:
        names = ", ".join(known) or "none"
        raise InputError(f"{title(prompt, node_id)} has no input “{field}” to set; it has: {names}.")
    prompt[node_id]["inputs"][field] = _converted(setting, text.removeprefix(MARK), *known[field])


def _named(prompt: Prompt, name: str) -> str:
    """The id of the one node that a setting means."""
    if name in prompt:
        return name
    metas = {node_id: node.get("_meta") for node_id, node in prompt.items()}
    titles = {i: meta.get("title") if isinstance(meta, dict) else None for i, meta in metas.items()}
    matches = [i for i, node in prompt.items() if name in (node.get("class_type"), titles[i])]
    if len(matches) == 1:
        return matches[0]
    names = "; ".join(title(prompt, node_id) for node_id in prompt)
    count = f"{len(matches)} nodes" if matches else "no node"
    raise InputError(f"“{name}” is {count} of this workflow. Name one of: {names}.")


def _converted(setting: str, text: str, kind: Any, options: dict[str, Any]) -> Any:
    try:
        if kind == "BOOLEAN":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in ("INT", "FLOAT"):
            return int(text) if kind == "INT" else float(text)
    except (KeyError, ValueError):
        raise InputError(f"In “{setting}”, “{text}” is no {kind}.") from None
    text = resolve(text) if declared(options) else text
    return next((choice for choice in options.get("options", []) if str(choice) == text), text)
