"""Our workflow files in the page's Templates, in place of ComfyUI's: the first thing that a newcomer sees."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from aiohttp import web

WORKFLOWS = Path(__file__).parents[2] / "workflows"
routes = web.RouteTableDef()


def _about(path: Path) -> dict[str, Any]:
    """A card, named as its file, with the beginning of the workflow's note as its text."""
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    note = next(node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    about = ". ".join(re.sub(r"[#*_]+", " ", part).strip() for part in note.split("\n\n")[:2])
    about = re.sub(
        r"(SANA-Video)? +", " ", about
    )  # a word of all names: more of it would come first in a search
    card = {"name": path.stem, "title": path.stem, "description": about}
    return card | {"mediaType": "image", "mediaSubtype": "jpg", "tags": ["SANA-Video"], "openSource": True}


@routes.get("/templates/index.json")
async def index(request: web.Request) -> web.Response:
    cards = [_about(path) for path in sorted(WORKFLOWS.glob("SANA-Video *.json"))]
    # the page opens with this group for somebody who comes for the first time
    group = {"moduleName": "default", "title": "Getting Started", "isEssential": True, "type": "video"}
    return web.json_response([group | {"icon": "icon-[lucide--film]", "templates": cards}])


@routes.get("/templates/{name}.json")
async def workflow(request: web.Request) -> web.StreamResponse:
    return _file(f"{request.match_info['name']}.json")


@routes.get("/templates/{name}-1.jpg")
async def picture(request: web.Request) -> web.StreamResponse:
    return _file(f"{request.match_info['name']}.jpg")


def _file(name: str) -> web.StreamResponse:
    known = {path.name: path for path in WORKFLOWS.iterdir()}  # so that no name leads anywhere else
    return web.FileResponse(known[name]) if name in known else web.Response(status=404)
