"""A real ComfyUI, started on a base directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import av
import pytest

from .which_comfyui import COMFYUI, missing

ROOT = Path(__file__).parents[2]
PACK_FOLDER = "ComfyUI-SANA-Video"
TEXT = (3).to_bytes(4, "big")  # how a binary message begins that brings a node's text
# as the suite's own process: bits may differ between thread counts
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


needs_comfyui = [pytest.mark.comfy, pytest.mark.skipif(missing() is not None, reason=missing() or "")]


def frames_of(path: Path) -> list:
    """The frames of a video file, as arrays."""
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def film_of(run: Run) -> list:
    """The frames of the video that a run saved; ComfyUI runs output nodes in an order of its own."""
    return frames_of(next(path for path in run.files if path.suffix == ".mp4"))


def python() -> str:
    """ComfyUI's own interpreter."""
    places = (COMFYUI / ".venv" / "bin" / "python", COMFYUI / "venv" / "bin" / "python")
    return str(next((place for place in places if place.is_file()), sys.executable))


class Run(NamedTuple):
    """What became of one prompt."""

    cached: set[str]
    ran: list[str]
    shown: dict[str, dict]
    error: dict | None
    interrupted: bool
    progress: list[tuple[str, int, int]]  # node, value, max
    previews: int
    files: list[Path]
    words: dict[str, str]  # the last text on each node


class Server:
    def __init__(self, url: str, base: Path, log: Path, process: subprocess.Popen) -> None:
        self.url, self.base, self.log, self.process = url, base, log, process

    def ask(self, path: str, body=None):
        """(status, JSON or None)"""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def run(self, prompt, *, on_event=lambda kind, data: None) -> Run:
        """Send a prompt and follow it to its end; `on_event` hears every message."""
        return asyncio.run(asyncio.wait_for(self._run(prompt, on_event), 300))

    def refused(self, prompt) -> str:
        """The words with which a prompt, or an output of it, is refused before it runs."""
        status, answer = self.ask("/prompt", {"prompt": prompt})
        assert status == 400 or answer["node_errors"], (status, answer)
        return json.dumps(answer, ensure_ascii=False)

    async def _run(self, prompt, on_event) -> Run:
        cached, ran, shown, progress, previews, words = set(), [], {}, [], 0, {}
        error, interrupted = None, False
        async with (
            aiohttp.ClientSession(self.url) as session,
            session.ws_connect("/ws?clientId=test", max_msg_size=0) as socket_,
        ):
            async with session.post("/prompt", json={"prompt": prompt, "client_id": "test"}) as answer:
                assert answer.status == 200, await answer.text()
                prompt_id = (await answer.json())["prompt_id"]
            async for message in socket_:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    if message.data[:4] == TEXT:
                        length = 8 + int.from_bytes(message.data[4:8], "big")
                        words[message.data[8:length].decode()] = message.data[length:].decode()
                    else:
                        previews += 1
                    continue
                event = message.json()
                kind, data = event["type"], event["data"]
                if data.get("prompt_id", prompt_id) != prompt_id:
                    continue
                await asyncio.to_thread(on_event, kind, data)
                if kind == "execution_cached":
                    cached = set(data["nodes"])
                elif kind == "executing" and data["node"]:
                    ran.append(data["node"])
                elif kind == "executed" and data["output"]:
                    shown[data["node"]] = data["output"]
                elif kind == "progress":
                    progress.append((data["node"], data["value"], data["max"]))
                elif kind == "execution_error" and data["exception_type"] == "ExecutionBlocked":
                    continue  # a message on the way; the run continues
                elif kind in ("execution_error", "execution_interrupted", "execution_success"):
                    error = data if kind == "execution_error" else None
                    interrupted = kind == "execution_interrupted"
                    break
        files = [
            self.base / image["type"] / image["subfolder"] / image["filename"]
            for output in shown.values()
            for image in output.get("images", ())
        ]
        return Run(cached, ran, shown, error, interrupted, progress, previews, files, words)


@contextmanager
def running(base: Path, *options: str):
    """ComfyUI on `base`, with this checkout and the toy nodes as its packs."""
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    (base / "input").mkdir(exist_ok=True)
    for name, folder in ((PACK_FOLDER, ROOT), ("toy", ROOT / "tests" / "support" / "toy")):
        with contextlib.suppress(FileExistsError):
            (base / "custom_nodes" / name).symlink_to(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        "--cpu",
        "--listen",
        "127.0.0.1",
        "--port",
        str(port),
        "--disable-api-nodes",
        "--base-directory",
        str(base),
    ]
    arguments += ["--database-url", "sqlite:///:memory:", *options]
    log = base / "comfyui.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [python(), "main.py", *arguments],
            cwd=COMFYUI,
            env=ENVIRONMENT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"http://127.0.0.1:{port}", base, log, process)
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(server: Server, process: subprocess.Popen) -> None:
    for _ in range(600):
        try:
            server.ask("/system_stats")
            return
        except OSError:
            assert process.poll() is None, server.log.read_text()[-3000:]
            time.sleep(0.2)
    raise TimeoutError(server.log.read_text()[-3000:])
