"""Our blueprints, as ComfyUI serves those of every pack: a list without their texts, and each by its id."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from aiohttp import web

from ..engine.graph import PACK

FOLDER = Path(__file__).parents[2] / "subgraphs"
routes = web.RouteTableDef()


def _entries() -> dict[str, tuple[Path, dict[str, Any]]]:
    """By the ids that ComfyUI would give them, of where they come from and their path."""
    entries = {}
    for path in sorted(FOLDER.glob("*.json")):
        key = hashlib.sha256(f"custom_node{path.as_posix()}".encode()).hexdigest()
        about = {"source": "custom_node", "name": path.stem, "info": {"node_pack": f"custom_nodes.{PACK}"}}
        entries[key] = path, about
    return entries


@routes.get("/global_subgraphs")
async def index(request: web.Request) -> web.Response:
    return web.json_response({key: about for key, (_, about) in _entries().items()})


@routes.get("/global_subgraphs/{id}")
async def blueprint(request: web.Request) -> web.Response:
    """The file's text; null where there is no such id, as ComfyUI answers."""
    path, about = _entries().get(request.match_info["id"], (None, None))
    if path is None or about is None:
        return web.json_response(None)
    return web.json_response(about | {"data": path.read_text(encoding="utf-8")})
