"""The web sockets of open pages: messages in order, and again those that a page missed when it comes back."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from uuid import uuid4

from aiohttp import WSCloseCode, web

from .jobs import Jobs, Message, is_picture, missed_messages

HEARTBEAT = 10  # seconds, after which a dead connection is noticed
BACKLOG = 200  # messages waiting for a slow page; with more, live pictures are left out
PAGES_REMEMBERED = 100  # pages that left and may come back
NEVER = float("inf")


class Sockets:
    def __init__(self) -> None:
        self._boxes: dict[str, asyncio.Queue[Message]] = {}
        self._seen: dict[str, float] = {}  # when a page that left was certainly still there; seconds

    def deliver(self, client: str | None, message: Message) -> None:
        """Send to one page, or to all. Call it in the loop's thread."""
        for name, box in self._boxes.items():
            if client in (None, name) and (box.qsize() < BACKLOG or not is_picture(message)):
                box.put_nowait(message)

    async def serve(self, request: web.Request, jobs: Jobs) -> web.WebSocketResponse:
        """Serve one connection until it closes. A page keeps its `clientId` when it connects again."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=2**20)
        await socket.prepare(request)
        client = request.query.get("clientId") or uuid4().hex
        if client in self._boxes:  # the old connection broke unnoticed: what was sent since may be lost
            self._seen[client] = time.time() - 2 * HEARTBEAT
        box = self._boxes[client] = asyncio.Queue()
        box.put_nowait({"type": "status", "data": {"status": jobs.status(), "sid": client}})
        for message in self._missed(client, jobs):
            box.put_nowait(message)
        writer = asyncio.create_task(_write(socket, box))
        try:
            async for _ in socket:  # the page only announces its features
                pass
        finally:
            writer.cancel()
            if self._boxes.get(client) is box:  # not that of a newer connection
                del self._boxes[client]
                clean = socket.close_code in (WSCloseCode.OK, WSCloseCode.GOING_AWAY) and box.empty()
                self._seen[client] = time.time() - (0 if clean else 2 * HEARTBEAT)
            for old in list(self._seen)[:-PAGES_REMEMBERED]:
                del self._seen[old]
        return socket

    def _missed(self, client: str, jobs: Jobs) -> list[Message]:
        """All messages of the last job, if it was still running when the page left: repeats do no harm."""
        left, job = self._seen.pop(client, NEVER), jobs.last_of(client)
        ended = job.times.get("execution_end", NEVER) / 1000 if job else 0
        return missed_messages(job) if job and (ended > left or ended == NEVER) else []


async def _write(socket: web.WebSocketResponse, box: asyncio.Queue[Message]) -> None:
    with suppress(ConnectionError):  # the reader notices, too
        while True:
            message = await box.get()
            await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_json(message))
