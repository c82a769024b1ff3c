"""Serves ComfyUI's real page from the standalone executor, over HTTP and one web socket."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import platform
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import torch
from aiohttp import web

from ..engine.core_nodes import SHOWN, shown_info
from ..engine.graph import PACK
from .blueprints import routes as blueprint_routes
from .files import UPLOAD_LIMIT, WRITING, read_json, refuse
from .files import routes as file_routes
from .jobs import Job, Jobs
from .prompts import read_asked
from .templates import routes as template_routes
from .translations import translations
from .websocket import Sockets

ROOT = Path(__file__).parents[2]
QUEUE_LIMIT = 1000  # jobs
# What ComfyUI sends without its paid nodes, and videos: the page talks to nobody but this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "worker-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: blob:; object-src 'self'"
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _web_folder() -> Path:
    """Our scripts and help pages."""
    return ROOT / import_module("...", __package__).WEB_DIRECTORY


class Page:
    """`frontend`: the folder with the page's files; `local`: answer only to names of this machine."""

    def __init__(self, classes: dict[str, Any], frontend: Path, local: bool = True) -> None:
        self._classes, self._frontend, self._local = classes, frontend, local
        self._sockets, self._numbers = Sockets(), 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=UPLOAD_LIMIT, middlewares=[self._guard])
        app[WRITING] = asyncio.Lock()
        tables = (*file_routes, *template_routes, *blueprint_routes)
        files = [r for r in tables if isinstance(r, web.RouteDef)]
        for method, path, handler in (*self._routes(), *((r.method, r.path, r.handler) for r in files)):
            for prefix in ("", "/api"):
                app.router.add_route(method, prefix + path, handler)
        app.router.add_get("/", self._index)
        app.router.add_static(f"/extensions/{PACK}", _web_folder())
        app.router.add_static("/", self._frontend)
        app.cleanup_ctx.append(self._life)
        return app

    def _routes(self) -> list[tuple[str, str, Handler]]:
        constant = {
            "/users": {"storage": "server", "migrated": True},
            "/extensions": [f"/extensions/{PACK}/{script.name}" for script in _web_folder().glob("*.js")],
            "/i18n": translations(ROOT / "locales"),
            "/features": {"supports_preview_metadata": True, "max_upload_size": UPLOAD_LIMIT},
            "/system_stats": {"system": _system(), "devices": []},
            "/workflow_templates": {},
            "/node_replacements": {},
            "/experiment/models": [],
            "/internal/folder_paths": {},
        }
        answers = [("GET", path, _constant(value)) for path, value in constant.items()]
        return [
            *answers,
            ("GET", "/object_info", self._object_info),
            ("GET", "/ws", self._socket),
            ("POST", "/prompt", self._prompt),
            ("POST", "/interrupt", self._interrupt),
            ("POST", "/queue", self._queue),
            ("POST", "/history", self._history),
            ("GET", "/jobs", self._list_jobs),
            ("GET", "/jobs/{id}", self._job),
            ("POST", "/jobs/{id}/cancel", self._cancel),
        ]

    async def _life(self, app: web.Application) -> AsyncIterator[None]:
        """Keeps the thread that runs prompts as long as the server."""
        hand_over = partial(asyncio.get_running_loop().call_soon_threadsafe, self._sockets.deliver)
        self._jobs = Jobs(self._classes, hand_over)
        yield
        await asyncio.to_thread(self._jobs.close)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse other sites that a browser has open: they could queue prompts and read results."""
        if self._is_foreign(request):
            raise refuse(web.HTTPForbidden, "This studio answers only to its own page, on this machine.")
        try:
            answer = await handler(request)
        except web.HTTPException:
            raise
        except OSError as error:  # a name that is too long, a folder where a file should be
            raise refuse(
                web.HTTPBadRequest, f"The file cannot be used: {error.strerror or error}."
            ) from error
        except Exception as error:
            logging.getLogger("sana_video").exception("The studio could not answer %s.", request.path)
            words = f"The studio could not answer ({type(error).__name__}); see its terminal."
            raise refuse(web.HTTPInternalServerError, words) from error
        if not answer.prepared:
            answer.headers["Content-Security-Policy"] = POLICY
            answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    def _is_foreign(self, request: web.Request) -> bool:
        try:
            host, origin = urlsplit(f"//{request.host}"), request.headers.get("Origin")
            if origin is not None and urlsplit(origin).netloc.lower() != host.netloc.lower():
                return True
            name = host.hostname
        except ValueError:  # not an address
            return True
        # a link to the studio on another site is fine
        cross = request.headers.get("Sec-Fetch-Site") == "cross-site" and request.path != "/"
        return cross or (self._local and not _is_local(name))

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(self._frontend / "index.html", headers={"Cache-Control": "no-store"})

    async def _object_info(self, request: web.Request) -> web.Response:
        """Describes every node; computed again for every page, so that new files are in the lists."""
        info = {name: node.GET_NODE_INFO_V1() for name, node in self._classes.items()}
        return web.json_response({**{name: shown_info(name) for name in SHOWN if name not in info}, **info})

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await self._sockets.serve(request, self._jobs)

    # ------------------------------------------------------------ the queue

    async def _prompt(self, request: web.Request) -> web.Response:
        body = await _body(request)
        prompt, extra, errors, previews = read_asked(body, self._classes)
        if self._jobs.remaining() >= QUEUE_LIMIT:
            words = f"{QUEUE_LIMIT} jobs wait already; let some of them finish first."
            raise refuse(web.HTTPTooManyRequests, words)
        self._numbers += 1
        number = body.get("number", -self._numbers if body.get("front") is True else self._numbers)
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            words = "A job's number is what the queue is sorted by; it must be a number."
            raise refuse(web.HTTPBadRequest, words)
        client = body.get("client_id")
        client = client if isinstance(client, str) else None
        job = Job(str(uuid4()), number, prompt, extra, client, previews)
        self._jobs.add(job)
        return web.json_response({"prompt_id": job.id, "number": number, "node_errors": errors})

    async def _interrupt(self, request: web.Request) -> web.Response:
        body = await _body(request)
        job = body.get("prompt_id")
        if job is not None and not isinstance(job, str):
            raise refuse(web.HTTPBadRequest, "A job's id has to be a text.")
        self._jobs.stop(job)
        return web.Response()

    async def _cancel(self, request: web.Request) -> web.Response:
        return web.json_response({"cancelled": self._jobs.stop(request.match_info["id"])})

    async def _queue(self, request: web.Request) -> web.Response:
        body = await _body(request)
        self._jobs.forget(_listed(body), "pending")
        return web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        body = await _body(request)
        done = ("completed", "failed", "cancelled")
        self._jobs.forget(_listed(body), *done)
        return web.Response()

    async def _list_jobs(self, request: web.Request) -> web.Response:
        status = request.query.get("status", "")
        jobs = [job.summary() for job in self._jobs.listed() if not status or job.status in status.split(",")]
        numbers = [request.query.get(name, text) for name, text in (("offset", "0"), ("limit", "1000"))]
        if not all(text.isdecimal() and len(text) < 10 for text in numbers):
            raise refuse(web.HTTPBadRequest, "offset and limit have to be whole numbers.")
        offset, limit = map(int, numbers)
        shown = jobs[offset : offset + limit]
        more = offset + len(shown) < len(jobs)
        pages = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
        return web.json_response({"jobs": shown, "pagination": pages})

    async def _job(self, request: web.Request) -> web.Response:
        job = self._jobs.find(request.match_info["id"])
        return web.json_response(
            job.whole() if job else {"error": "Job not found"}, status=200 if job else 404
        )


async def _body(request: web.Request) -> dict[str, Any]:
    body = await read_json(request) if request.can_read_body else {}
    if isinstance(body, dict):
        return body
    raise refuse(web.HTTPBadRequest, f"An object with names is needed here, not {json.dumps(body)[:40]}.")


def _listed(body: dict[str, Any]) -> list[str] | None:
    """The ids to delete, or None for all."""
    if body.get("clear") is True:
        return None
    ids = body.get("delete", [])
    if isinstance(ids, list):
        return ids
    raise refuse(web.HTTPBadRequest, "What to delete has to be a list of ids.")


def _constant(value: Any) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(value)

    return answer


def _is_local(name: str | None) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(name or "").is_loopback
    return name == "localhost"


def _system() -> dict[str, Any]:
    versions = {"python_version": platform.python_version(), "pytorch_version": torch.__version__}
    known = {"os": platform.system(), "comfyui_version": "sana-video studio", "embedded_python": False}
    return {**known, **versions, "argv": ["--disable-api-nodes"], "ram_total": 0, "ram_free": 0}
