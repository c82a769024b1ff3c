"""Draws the blueprints: subgraphs that the page lists among its nodes, each one box with what an artist sets.

ComfyUI reads them from the pack's folder subgraphs/. build.py writes them.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from .arrange import Node
from .room import PICTURE, Content
from .scenes import GEMMA, LONG, MIDDLE, SCREEN, SCRIPT, WAN, WIDE

ENTRANCE, EXIT = -10, -20  # the ids of a subgraph's own ends
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
LIVE = "$$canvas-image-preview"  # the page's name for a node's live pictures
Socket = tuple[Node, str]  # a node of the inside, and the name of an input or output


class Box(NamedTuple):
    """What the outside shows of a subgraph, in the page's order: sockets, then widgets."""

    about: str
    words: list[str]  # under which a search finds it, too
    width: int
    inputs: list[Socket]
    outputs: list[Socket]
    pictures: Socket  # of a node inside that the box shows, too


def shot(sheet: Any) -> Box:
    with sheet.group("", "", WIDE):
        words = sheet.add("SanaVideoTextEncode")
    with sheet.group("", "", WIDE):
        sampler = sheet.add("SanaVideoBlockSampler", positive=words, chunks=2)
    return Box(
        "One shot of a film: a prompt and how long it lasts. Chain shots by their states, from Start "
        "SANA-Video Stream to SANA-Video Decode Stream.",
        ["prompt and sampler", "chain of shots"],
        MIDDLE,
        [(sampler, "model"), (words, "text_encoder"), (sampler, "state"), (words, "text")]
        + [(sampler, name) for name in ("chunks", "seed", "on_prompt_change")],
        [(sampler, name) for name in ("state", "latent", "frames")],
        (sampler, LIVE),
    )


def film(sheet: Any) -> Box:
    with sheet.group("", "", WIDE):
        model = sheet.add("SanaVideoModelLoader", model_name=LONG)
        encoder = sheet.add("SanaVideoTextEncoderLoader", encoder_name=GEMMA)
        vae = sheet.add("SanaVideoVAELoader", vae_name=WAN)
    with sheet.group("", "", SCREEN):
        sockets = {"model": model, "text_encoder": encoder, "vae": vae}
        made = sheet.add("SanaVideoLongVideo", script=SCRIPT, seconds=20, seed=7, **sockets)
    names = ("script", "seconds", "width", "height", "seed")
    files = [(model, "model_name"), (encoder, "encoder_name"), (vae, "vae_name")]
    return Box(
        "A film from a script, with its models: a line is a shot. Change a line, and only the later chunks "
        "of its scene are made.",
        ["script to film", "film with models"],
        MIDDLE + 100,
        [(made, name) for name in names] + files,
        [(made, "video"), (made, "state")],
        (made, "video-preview"),
    )


BLUEPRINTS = {"SANA-Video shot": shot, "SANA-Video film": film}


def blueprint(sheet: Any, name: str, origin: dict[str, str]) -> dict[str, Any]:
    """A file with one box. `sheet`: empty; `origin`: the pack, as a node's properties name it."""
    box = BLUEPRINTS[name](sheet)
    drawn = sheet.drawing(f"subgraphs/{name}")
    inside = _inside(name, box, drawn)
    instance = _instance(box, inside, sheet.prompt, origin)
    last = {"last_node_id": instance["id"], "last_link_id": inside["state"]["lastLinkId"]}
    outside = {"nodes": [instance], "links": [], "groups": [], "definitions": {"subgraphs": [inside]}}
    about = {"BlueprintDescription": box.about, "BlueprintSearchAliases": box.words}
    return drawn | last | outside | {"extra": drawn["extra"] | about}


def _inside(name: str, box: Box, drawn: dict[str, Any]) -> dict[str, Any]:
    """The subgraph: the nodes of a drawing, and the links from and to its ends."""
    links, ends = [dict(zip(LINK, link, strict=True)) for link in drawn["links"]], drawn["id"]
    entries: dict[str, list[Any]] = {"inputs": [], "outputs": []}
    for side, sockets in (("inputs", box.inputs), ("outputs", box.outputs)):
        for place, (node, entry) in enumerate(sockets):
            number = len(links) + 1
            slot = next(i for i, one in enumerate(node[side]) if one["name"] == entry)
            socket, there = node[side][slot], (node["id"], slot)
            if side == "inputs":
                socket["link"], route = number, (ENTRANCE, place, *there)
            else:
                socket["links"], route = [*(socket["links"] or []), number], (*there, EXIT, place)
            links.append(dict(zip(LINK, (number, *route, socket["type"]), strict=True)))
            known = {"id": str(uuid5(NAMESPACE_URL, f"{ends}/{side}/{entry}")), "name": entry}
            entries[side].append(known | {"type": socket["type"], "linkIds": [number]})
    right = max(node["pos"][0] + node["size"][0] for node in drawn["nodes"])
    return {
        "id": str(uuid5(NAMESPACE_URL, f"{ends}/inside")),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": drawn["last_node_id"] + 1, "lastLinkId": len(links)}
        | {"lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": ENTRANCE, "bounding": [-240, 0, 160, 40 + 20 * len(box.inputs)]},
        "outputNode": {"id": EXIT, "bounding": [right + 80, 0, 120, 40 + 20 * len(box.outputs)]},
        **entries,
        "widgets": [],
        "nodes": drawn["nodes"],
        "groups": drawn["groups"],
        "links": links,
        "extra": {"workflowRendererVersion": "LG"},
        "category": "SANA-Video",
        "description": box.about,
    }


def _instance(box: Box, inside: dict[str, Any], prompt: dict[str, Any], origin: dict[str, str]) -> Node:
    """The box itself: it has the sockets of the inside, and the values of the widgets."""
    sockets = [next(e for e in node["inputs"] if e["name"] == name) for node, name in box.inputs]
    shown = [socket for socket, entry in zip(box.inputs, sockets, strict=True) if "widget" in entry]
    texts = sum(name in ("text", "script") for _, name in shown)
    slots = max(len(sockets) - len(shown), len(box.outputs))
    has = Content(inside["id"], slots, len(shown) - texts, 0, 0, texts)
    source, preview = box.pictures
    exposed = {"name": preview, "sourceNodeId": str(source["id"]), "sourcePreviewName": preview}
    return {
        "id": inside["state"]["lastNodeId"],
        "type": inside["id"],
        "pos": [0, 0],
        "size": [box.width, has.full() + PICTURE],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [entry | {"link": None} for entry in sockets],
        "outputs": [{"name": e["name"], "type": e["type"], "links": None} for e in inside["outputs"]],
        "title": inside["name"],
        "properties": {**origin, "previewExposures": [exposed]},
        "widgets_values": [prompt[str(node["id"])]["inputs"][name] for node, name in shown],
    }
