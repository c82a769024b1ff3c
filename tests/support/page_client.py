"""A page with toy nodes, asked over HTTP and a web socket without a browser."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from contextlib import asynccontextmanager

import folder_paths
import pytest
from comfy import model_management, utils
from comfy_api import feature_flags
from comfy_api.latest import io, ui
from comfy_execution.utils import get_executing_context
from comfyui_sana_video.standalone.engine.graph import by_id
from comfyui_sana_video.standalone.studio.page import Page
from PIL import Image
from protocol import BinaryEventTypes
from server import PromptServer
from support.calibration import limit

test_utils = pytest.importorskip("aiohttp.test_utils")


class Slow(io.ComfyNode):
    """Says that it has begun, and waits until it is let go or interrupted; shows a picture and a text."""

    BEGUN, GO = threading.Event(), threading.Event()

    @classmethod
    def define_schema(cls):
        inputs = [io.Int.Input("seed", default=0)]
        return io.Schema(node_id="Slow", inputs=inputs, outputs=[io.Int.Output()], is_output_node=True)

    @classmethod
    def execute(cls, seed):
        bar = utils.ProgressBar(4)
        bar.update_absolute(1, preview=("JPEG", Image.new("RGB", (8, 4), "red"), 64))
        player = threading.Thread(target=Slow.show, args=[get_executing_context().node_id])
        player.start()
        player.join()
        PromptServer.instance.send_progress_text(f"going on: {seed}", get_executing_context().node_id)
        Slow.BEGUN.set()
        while not Slow.GO.wait(0.01):
            model_management.throw_exception_if_processing_interrupted()
        return io.NodeOutput(seed, ui=ui.PreviewText(f"seed {seed}"))

    @staticmethod
    def show(node_id):
        """From another thread: it doesn't know which node runs."""
        page, image = PromptServer.instance, ("JPEG", Image.new("RGB", (4, 8), "blue"), 64)
        assert feature_flags.supports_feature(
            page.sockets_metadata, page.client_id, "supports_preview_metadata"
        )
        kind = BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA
        page.send_sync(kind, (image, {"node_id": node_id}), page.client_id)


class Client(test_utils.TestClient):
    async def queue(self, prompt, client=None, **more):
        answer = await self.post("/api/prompt", json={"prompt": prompt, "client_id": client, **more})
        return answer.status, await answer.json()

    async def socket(self, client=""):
        return Socket(await self.ws_connect(f"/ws?clientId={client}"))

    async def until(self, job, *statuses):
        """The job as /api/jobs reports it, once it has one of these statuses."""
        began = time.monotonic()
        while True:
            answer = await (await self.get(f"/api/jobs/{job}")).json()
            if answer.get("status") in statuses:
                return answer
            waited = time.monotonic() - began
            assert waited < 10 or waited < limit(10), answer
            await asyncio.sleep(0.01)


class Socket:
    def __init__(self, socket):
        self.socket, self.heard, self.pictures, self.words = socket, [], [], []

    async def until(self, *kinds):
        """The data of the first message of one of these kinds; all before it are in `heard`."""
        while True:
            message = await asyncio.wait_for(self.socket.receive(), limit(10))
            if isinstance(message.data, bytes):
                kind, length = struct.unpack(">II", message.data[:8])
                about, content = message.data[8 : 8 + length], message.data[8 + length :]
                if kind == 3:
                    self.words.append((about.decode(), content.decode()))
                else:
                    self.pictures.append((kind, about, content))
                continue
            assert isinstance(message.data, str), message
            self.heard.append(message.json())
            if self.heard[-1]["type"] in kinds:
                return self.heard[-1]["data"]

    def kinds(self):
        return [message["type"] for message in self.heard if message["type"] != "status"]

    async def leave(self):
        await self.socket.close()
        await asyncio.sleep(0.05)  # until the server knows, too


@asynccontextmanager
async def client(toy_classes, base, **options):
    """A client of a page on `base`; a job that still runs is let go at the end."""
    (base / "page").mkdir(exist_ok=True)
    (base / "page" / "index.html").write_text("<p>the page")
    folder_paths.set_base_directory(str(base))
    Slow.BEGUN.clear()
    Slow.GO.clear()
    app = Page(toy_classes | by_id([Slow], "custom_nodes.toy"), base / "page", **options).app()
    try:
        async with Client(test_utils.TestServer(app)) as asked:
            asked.base = base
            yield asked
            Slow.GO.set()
    finally:
        folder_paths.set_base_directory(".")


@pytest.fixture(name="ask")
def fixture_ask(toy_classes, tmp_path):
    """ask(check, **options): run `check(client)`; the page's base directory is `client.base`."""

    def ask(check, **options):
        async def run():
            async with client(toy_classes, tmp_path, **options) as asked:
                await check(asked)

        asyncio.run(run())

    return ask


def slow(seed=0):
    return {"s": {"class_type": "Slow", "inputs": {"seed": seed}}}


async def begun():
    assert await asyncio.to_thread(Slow.BEGUN.wait, limit(10))
    Slow.BEGUN.clear()
