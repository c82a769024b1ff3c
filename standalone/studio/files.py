"""The page's files: results, uploads, saved workflows and settings; nothing outside of the base directory."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from io import BytesIO
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from PIL import Image

from ...sana_video_core.files.atomic import atomic_path
from ..engine.core_nodes import PICTURES

UPLOAD_LIMIT = 100 * 2**20  # bytes; as ComfyUI's own
# held from checking whether a file exists until it is written
WRITING = web.AppKey("writing", asyncio.Lock)
SHOWN = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "video/", "audio/")
ROOTS = {
    "input": folder_paths.get_input_directory,
    "output": folder_paths.get_output_directory,
    "temp": folder_paths.get_temp_directory,
}
routes = web.RouteTableDef()


def refuse(status: type[web.HTTPError], words: str) -> web.HTTPError:
    """The page shows the reason phrase, which is plain ASCII on one line; the body has the full text."""
    reason = "".join(letter if " " <= letter <= "~" else "?" for letter in words.replace("\n", " "))
    return status(reason=reason, text=words)


async def read_json(request: web.Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError, LookupError, web.RequestPayloadError) as error:
        raise refuse(web.HTTPBadRequest, f"This is no JSON ({error}).") from error


def inside(root: Path | str, *parts: str) -> Path:
    """The path of these parts under `root`. Refuses a path that leads out of it, also through a link."""
    place = Path(root, *(part for part in parts if part))
    if "\0" in str(place) or not place.resolve().is_relative_to(Path(root).resolve()):
        raise refuse(web.HTTPForbidden, f"“{'/'.join(parts)}” lies outside of the studio's folders.")
    return place


def user_folder() -> Path:
    """Settings and saved workflows, where ComfyUI has them."""
    return Path(folder_paths.get_user_directory(), "default")


# ---------------------------------------------------------------- results and uploads


@routes.get("/view")
async def view(request: web.Request) -> web.StreamResponse:
    """A picture or video; any other file is only downloaded, never shown as a page of ours."""
    query = request.query
    root = ROOTS.get(query.get("type", "output"))
    if root is None or "filename" not in query:
        raise refuse(web.HTTPBadRequest, "A file needs a name, and a type: input, output or temp.")
    path = inside(root(), query.get("subfolder", ""), query["filename"])
    if not path.is_file():
        raise refuse(web.HTTPNotFound, f"There is no file “{query['filename']}” any more.")
    kind = mimetypes.guess_type(path)[0] or ""
    if kind.startswith(SHOWN):
        return web.FileResponse(path)
    headers = {"Content-Disposition": "attachment", "Content-Type": "application/octet-stream"}
    return web.FileResponse(path, headers=headers)


@routes.post("/upload/image")
async def upload(request: web.Request) -> web.Response:
    """Saves a picture in input/, under a free name unless it exists already or may be overwritten."""
    try:
        form = await request.post()
    except (ValueError, AssertionError, web.RequestPayloadError) as error:
        raise refuse(web.HTTPBadRequest, f"The upload is damaged ({error}).") from error
    image, subfolder = form.get("image"), form.get("subfolder", "")
    if not isinstance(image, web.FileField) or Path(image.filename).suffix.lower() not in PICTURES:
        raise refuse(web.HTTPBadRequest, f"Only pictures can be uploaded: {', '.join(sorted(PICTURES))}.")
    if not isinstance(subfolder, str):
        raise refuse(web.HTTPBadRequest, "The subfolder of an upload has to be a text.")
    path = inside(folder_paths.get_input_directory(), subfolder, Path(image.filename).name)
    content = await asyncio.to_thread(_checked, image, path.name)
    async with request.app[WRITING]:
        if str(form.get("overwrite")).lower() not in ("true", "1"):
            path = _free(path, content)
        await _write(path, content)
    return web.json_response({"name": path.name, "subfolder": subfolder, "type": "input"})


def _checked(image: web.FileField, name: str) -> bytes:
    """The bytes of a picture that can be read to its end."""
    content = image.file.read()
    try:
        with Image.open(BytesIO(content)) as picture:
            picture.load()
    except Exception as error:  # Pillow has no common class for what a damaged file raises
        raise refuse(web.HTTPBadRequest, f"“{name}” isn't a picture that can be read.") from error
    return content


def _free(path: Path, content: bytes) -> Path:
    """This path, or one with a number, where there is no file yet or the same one."""
    stem, number = path.stem, 0
    while path.exists() and path.read_bytes() != content:
        number += 1
        path = path.with_name(f"{stem} ({number}){path.suffix}")
    return path


async def _write(path: Path, content: bytes) -> None:
    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)

    try:
        await asyncio.to_thread(write)
    except OSError as error:
        raise refuse(web.HTTPInsufficientStorage, str(error)) from error


# ---------------------------------------------------------------- saved workflows


def _about(path: Path, root: Path) -> dict[str, Any]:
    stat = path.stat()
    moments = {"modified": int(stat.st_mtime * 1000), "created": int(stat.st_ctime * 1000)}
    return {"path": path.relative_to(root).as_posix(), "size": stat.st_size, **moments}


def _answer(request: web.Request, path: Path) -> web.Response:
    full = request.query.get("full_info") == "true"
    name = path.relative_to(user_folder()).as_posix()
    return web.json_response(_about(path, user_folder()) if full else name)


def _target(request: web.Request, name: str) -> Path:
    """A path to write to; refuses one that exists, unless it may be overwritten."""
    path = inside(user_folder(), name)
    if request.query.get("overwrite", "true") == "false" and path.exists():
        raise refuse(web.HTTPConflict, f"“{name}” exists already.")
    return path


def _existing(name: str) -> Path:
    path = inside(user_folder(), name)
    if not path.is_file():
        raise refuse(web.HTTPNotFound, f"There is no file “{name}”.")
    return path


@routes.get("/userdata")
async def list_saved(request: web.Request) -> web.Response:
    root = inside(user_folder(), request.query.get("dir", ""))
    paths = root.rglob("*") if request.query.get("recurse") == "true" else root.glob("*")
    about = sorted((_about(path, root) for path in paths if path.is_file()), key=lambda entry: entry["path"])
    if request.query.get("full_info") == "true":
        return web.json_response(about)
    names = [entry["path"] for entry in about]
    split = request.query.get("split") == "true"
    return web.json_response([[name, *name.split("/")] for name in names] if split else names)


@routes.get("/userdata/{file}")
async def read_saved(request: web.Request) -> web.StreamResponse:
    headers = {"Content-Disposition": "attachment", "Content-Type": "application/octet-stream"}
    return web.FileResponse(_existing(request.match_info["file"]), headers=headers)


@routes.post("/userdata/{file}")
async def save(request: web.Request) -> web.Response:
    content = await request.read()
    async with request.app[WRITING]:
        path = _target(request, request.match_info["file"])
        await _write(path, content)
    return _answer(request, path)


@routes.delete("/userdata/{file}")
async def delete_saved(request: web.Request) -> web.Response:
    _existing(request.match_info["file"]).unlink()
    return web.Response(status=204)


@routes.post("/userdata/{file}/move/{target}")
async def move_saved(request: web.Request) -> web.Response:
    source, path = _existing(request.match_info["file"]), _target(request, request.match_info["target"])
    if path.is_dir():
        raise refuse(web.HTTPConflict, f"“{request.match_info['target']}” is a folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    source.replace(path)
    return _answer(request, path)


# ---------------------------------------------------------------- settings


def settings() -> dict[str, Any]:
    """Empty where nothing was set, or where the file is damaged.

    The tutorial never counts as completed: the page then opens with Templates, and not with a graph of nodes
    that are missing here.
    """
    try:
        saved = json.loads((user_folder() / "comfy.settings.json").read_text(encoding="utf-8"))
        return {name: value for name, value in saved.items() if name != "Comfy.TutorialCompleted"}
    except (OSError, ValueError, AttributeError):
        return {}


@routes.get("/settings")
async def read_settings(request: web.Request) -> web.Response:
    return web.json_response(settings())


@routes.get("/settings/{name}")
async def read_setting(request: web.Request) -> web.Response:
    return web.json_response(settings().get(request.match_info["name"]))


@routes.post("/settings")
@routes.post("/settings/{name}")
async def write_settings(request: web.Request) -> web.Response:
    value, name = await read_json(request), request.match_info.get("name")
    if not name and not isinstance(value, dict):
        raise refuse(web.HTTPBadRequest, "Settings have to be an object with names.")
    async with request.app[WRITING]:
        changed = settings() | ({name: value} if name else value)
        await _write(user_folder() / "comfy.settings.json", json.dumps(changed, indent=2).encode())
    return web.Response()
