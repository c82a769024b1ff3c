"""Runs a workflow on a real ComfyUI: posts it, follows it over the web socket, and fetches its files."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from PIL import Image

from ..sana_video_core.errors import Cancelled, InputError, SanaVideoError
from ..sana_video_core.files.atomic import atomic_path, make_folder
from ..sana_video_core.files.claims import first_free, numbered, try_folder
from ..standalone.engine.graph import Prompt, title
from ..standalone.engine.strangers import SERVER, strangers
from .console import Console

PICTURE = (1).to_bytes(4, "big")


def run_on_server(
    url: str,
    prepare: Callable[[dict[str, Any]], Any],
    output: Path,
    left_out: Callable[[str], object] = lambda words: None,
    show: Callable[[Image.Image], object] | None = None,
) -> list[Path]:
    """Returns the saved files, now in `output`. prepare(object_info) returns the prompt and its metadata.

    `left_out` hears why outputs were left out, if any were. `show` is given live pictures, in a thread.
    """
    try_folder(output)
    try:
        return asyncio.run(_run(url.rstrip("/"), prepare, output, left_out, show))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error, SanaVideoError):
            raise
        raise InputError(
            f"No ComfyUI answers at {url} ({error}). Start it there, or correct the address."
        ) from error


async def _run(
    url: str,
    prepare: Callable[[dict[str, Any]], Any],
    output: Path,
    left_out: Callable[[str], object] = lambda words: None,
    show: Callable[[Image.Image], object] | None = None,
) -> list[Path]:
    async with aiohttp.ClientSession() as session:
        info = await _object_info(session, url)
        prompt, extra = prepare(info)
        if unknown := strangers(prompt, info, SERVER):
            raise InputError("\n".join(unknown))
        client = uuid4().hex
        async with session.ws_connect(f"{url}/ws?clientId={client}", max_msg_size=0) as socket:
            data = {"extra_pnginfo": extra, **({"preview_method": "auto"} if show else {})}
            body = {"prompt": prompt, "client_id": client, "extra_data": data}
            async with session.post(f"{url}/prompt", json=body) as answer:
                reply = await _reply(answer)
            if answer.status != 200:
                raise InputError(_problems(prompt, reply))
            with Console(prompt, left_out, show) as console:
                if reply.get("node_errors"):
                    console.tell("left out", {"message": _problems(prompt, reply)})
                try:
                    await _follow(socket, reply["prompt_id"], prompt, console)
                except asyncio.CancelledError:  # Ctrl-C
                    await session.post(f"{url}/interrupt")
                    raise
        files = []
        for file in console.files:
            async with session.get(f"{url}/view", params=file, raise_for_status=True) as answer:
                content = await answer.read()
                with first_free(numbered(_place(output, file))) as place, atomic_path(place) as path:
                    path.write_bytes(content)
                files.append(place)
        console.say_saved(files)
        return files


async def _object_info(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """What a server says of its nodes. Raises ValueError if that isn't as ComfyUI says it."""
    async with session.get(f"{url}/object_info", raise_for_status=True) as answer:
        try:
            info = await answer.json()
        except RecursionError:
            info = None
    if not isinstance(info, dict) or not all(isinstance(node, dict) for node in info.values()):
        raise ValueError("what answers there is another program")
    return info


async def _reply(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """What it answers to a prompt; a failure inside it is no JSON."""
    if answer.content_type == "application/json":
        return await answer.json()
    words = f"It failed while checking it ({answer.status} {answer.reason}); look at its own messages."
    return {"error": {"message": words, "details": ""}}


def _place(output: Path, file: dict[str, Any]) -> Path:
    """Where a file of the server goes; its names must not lead out of the output folder."""
    place = (output / file["subfolder"] / file["filename"]).resolve()
    if not place.is_relative_to(output.resolve()):
        raise InputError(
            f"The server names a file outside of the output folder ({place}); nothing was written there."
        )
    make_folder(place.parent)
    return place


def _problems(prompt: Prompt, reply: dict[str, Any]) -> str:
    """Why a server refuses a prompt, a line for each problem."""
    lines = [
        f"{title(prompt, node_id)}: {_words(error['message'], error['details'])}."
        for node_id, node in reply.get("node_errors", {}).items()
        for error in node["errors"]
    ]
    error = reply.get("error") or {}
    return (
        "\n".join(lines)
        or f"The server refuses this workflow: {error.get('message')} {error.get('details')}".strip()
    )


def _words(message: str, details: str) -> str:
    return (message if message == details else f"{message}: {details}").rstrip(".")


def _picture(message: bytes) -> Image.Image | None:
    """A live picture from ComfyUI's binary message: two numbers (1: a picture; its format), and the file."""
    if message[:4] != PICTURE:
        return None
    try:
        picture = Image.open(io.BytesIO(message[8:]))
        picture.load()
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
        return None
    return picture


async def _follow(
    socket: aiohttp.ClientWebSocketResponse[Any], prompt_id: str, prompt: Prompt, console: Console
) -> None:
    """Show what the server reports about our prompt, until it is done."""
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            if (picture := _picture(message.data)) is not None:
                console.see(picture)
            continue
        event = message.json() if message.type is aiohttp.WSMsgType.TEXT else {}
        kind, data = event.get("type"), event.get("data", {})
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "execution_success":
            return console.tell("finished", {})
        if kind == "execution_interrupted":
            raise Cancelled(f"The server was stopped in {title(prompt, data['node_id'])}.")
        if kind == "execution_error":
            raise SanaVideoError(f"{title(prompt, data['node_id'])}: {data['exception_message'].strip()}")
        if kind in ("executing", "progress", "executed") and data.get("node") in prompt:
            console.tell(kind, data)
    raise SanaVideoError(
        "The server closed the connection before the workflow was done; look at its own messages."
    )
