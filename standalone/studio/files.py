"""The page's files: results, uploads, saved workflows and settings; nothing outside of the base directory."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from io import BytesIO
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any, TypeVar

import folder_paths
from aiohttp import web

from ...sana_video_core.errors import FileError
from ...sana_video_core.files.atomic import atomic_path, make_folder
from ...sana_video_core.files.claims import claim, first_free
from ...sana_video_core.files.image_reader import opened_image
from ...sana_video_core.files.places import is_file, is_folder, visible_files
from ...sana_video_core.files.text_file import read_text
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
Answer = TypeVar("Answer")
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
    try:
        inside = place.resolve().is_relative_to(Path(root).resolve())
    except (OSError, ValueError, RuntimeError):  # no name that the system takes, or a circle of links
        inside = False
    if not inside:
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
    if not is_file(path):
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
        if str(form.get("overwrite")).lower() in ("true", "1"):
            await _write(path, content)
        else:
            same = (other for other in takewhile(is_file, _names(path)) if _holds(other, content))
            path = next(same, None) or await _write_new(_names(path), content)
    return web.json_response({"name": path.name, "subfolder": subfolder, "type": "input"})


def _checked(image: web.FileField, name: str) -> bytes:
    """The bytes of a picture that can be read to its end."""
    content = image.file.read()
    try:
        with opened_image(BytesIO(content)) as picture:
            picture.load()
    except FileError as error:
        raise refuse(web.HTTPBadRequest, f"“{name}” isn't a picture that can be read.") from error
    return content


def _names(path: Path) -> Iterator[Path]:
    """This path, then the same with a number, as ComfyUI counts them."""
    yield path
    yield from (path.with_name(f"{path.stem} ({number}){path.suffix}") for number in count(1))


def _holds(path: Path, content: bytes) -> bool:
    return path.stat().st_size == len(content) and path.read_bytes() == content


async def _write(path: Path, content: bytes) -> None:
    """Write a file, also over an older one."""

    def write() -> None:
        make_folder(path.parent)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)

    await _stored(write)


async def _write_new(paths: Iterator[Path], content: bytes) -> Path:
    """Write the first of these paths, all in one folder, that is free; returns it."""
    first = next(paths)

    def write() -> Path:
        make_folder(first.parent)
        with first_free(chain([first], paths)) as path:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
            return path

    return await _stored(write)


async def _stored(write: Callable[[], Answer]) -> Answer:
    try:
        return await asyncio.to_thread(write)
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


def _target(request: web.Request, name: str) -> tuple[Path, bool]:
    """A path to write to, and whether it has to be new; refuses one that exists then."""
    path, new = inside(user_folder(), name), request.query.get("overwrite", "true") == "false"
    if new and (is_file(path) or is_folder(path)):
        raise refuse(web.HTTPConflict, f"“{name}” exists already.")
    return path, new


def _existing(name: str) -> Path:
    path = inside(user_folder(), name)
    if not is_file(path):
        raise refuse(web.HTTPNotFound, f"There is no file “{name}”.")
    return path


@routes.get("/userdata")
async def list_saved(request: web.Request) -> web.Response:
    root = inside(user_folder(), request.query.get("dir", ""))
    deep = request.query.get("recurse") == "true"
    about = []
    for path in visible_files(root):
        if deep or path.parent == root:
            with suppress(OSError):  # deleted meanwhile, or a broken link
                about.append(_about(path, root))
    about.sort(key=lambda entry: entry["path"])
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
        path, new = _target(request, request.match_info["file"])
        await (_write_new(iter([path]), content) if new else _write(path, content))
    return _answer(request, path)


@routes.delete("/userdata/{file}")
async def delete_saved(request: web.Request) -> web.Response:
    _existing(request.match_info["file"]).unlink()
    return web.Response(status=204)


@routes.post("/userdata/{file}/move/{target}")
async def move_saved(request: web.Request) -> web.Response:
    async with request.app[WRITING]:
        source, (path, new) = (
            _existing(request.match_info["file"]),
            _target(request, request.match_info["target"]),
        )
        if is_folder(path):
            raise refuse(web.HTTPConflict, f"“{request.match_info['target']}” is a folder.")
        make_folder(path.parent)
        with claim(path) if new else nullcontext():
            source.replace(path)
    return _answer(request, path)


# ---------------------------------------------------------------- settings


def settings() -> dict[str, Any]:
    """Empty where nothing was set, or where the file is damaged.

    The tutorial never counts as completed: the page then opens with Templates, and not with a graph of nodes
    that are missing here.
    """
    try:
        saved = json.loads(read_text(user_folder() / "comfy.settings.json"))
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
