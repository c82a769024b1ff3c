"""Nodes that whoever is to run a prompt doesn't have: whose they are, and what to do."""

from __future__ import annotations

import re
from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .graph import Prompt
from .page_nodes import PACKS

SUBGRAPH = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
GROUP = re.compile(r"workflow[>/].+")
OURS = "SanaVideo"  # how the ids of our nodes begin


class Place(NamedTuple):
    """Where a prompt is to run, as far as the sentences are concerned."""

    core: str  # what to do about ComfyUI's own nodes: {names}
    ours: str  # about this pack's
    other: str  # about other packs'


HERE = Place(
    "Only a real ComfyUI runs {names}. Start one with this pack, and add --server http://127.0.0.1:8188 to "
    "this command.",
    "This version of the pack has no node {names}. Update the pack.",
    "Other packs have {names}. Start a ComfyUI with them and with this pack, and add --server "
    "http://127.0.0.1:8188 to this command; or take these nodes out.",
)
STUDIO = Place(
    "Only a real ComfyUI runs {names}. Start one with this pack, and open the workflow there.",
    HERE.ours,
    "There is no node {names} here: the studio has the nodes of SANA-Video alone. Open the workflow in a "
    "ComfyUI with the pack that has them, or take these nodes out.",
)
SERVER = Place(
    "This ComfyUI has no node {names}, which other versions of ComfyUI have. Update it.",
    "This ComfyUI has no node {names}. Install this pack there, or update it, and start ComfyUI again.",
    "This ComfyUI has no node {names}, which other packs have. Install them there, or take these nodes out.",
)
NO_CLASS = (
    "Node {names} has no class: the page that saved it didn't have its pack. Save the workflow again in a "
    "ComfyUI that has it, or take the node out."
)


def strangers(prompt: Prompt, known: Container[str], place: Place) -> dict[str, list[str]]:
    """Sentences, each with the ids of the nodes that it is about; nothing where all nodes are known."""
    groups: dict[str, dict[str, list[str]]] = {}
    for node_id, node in prompt.items():
        kind = node.get("class_type")
        if not isinstance(kind, str) or kind not in known:
            words, name = _about(kind, node, place) if kind else (NO_CLASS, node_id)
            groups.setdefault(words, {}).setdefault(name, []).append(node_id)
    return {
        words.format(names=", ".join(sorted(by_name))): [i for ids in by_name.values() for i in ids]
        for words, by_name in groups.items()
    }


def _about(kind: str, node: dict[str, Any], place: Place) -> tuple[str, str]:
    """(a sentence with a place for names, the name of this node in it)"""
    meta = node.get("_meta")
    pack = next((meta[key] for key in PACKS if meta.get(key)), None) if isinstance(meta, dict) else None
    if SUBGRAPH.fullmatch(kind):
        return "The file has no drawing of the subgraph {names}. Save the workflow again in ComfyUI.", kind
    if GROUP.fullmatch(kind):
        words = (
            "{names}: group nodes of older ComfyUIs. Open the workflow in ComfyUI, which makes subgraphs of "
        )
        return f"{words}them, and save it again.", kind
    if kind.startswith(OURS):
        return place.ours, kind
    if pack == "comfy-core" or (pack is None and kind in core_names()):
        return place.core, kind
    return place.other, f"{kind} ({pack})" if pack else kind


@cache
def core_names() -> frozenset[str]:
    """The ids of ComfyUI's own nodes, from 0.29 to 0.33."""
    return frozenset((Path(__file__).parent / "core_names.txt").read_text(encoding="utf-8").splitlines())
