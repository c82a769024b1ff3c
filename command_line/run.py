"""`sana-video run WORKFLOW.json`: a workflow file with this pack's nodes, here or on a ComfyUI server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

# nothing heavy is imported here, because every command imports this module for its options


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("workflow", type=Path, help="a workflow file of ComfyUI, either format")
    add(
        "--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="NODE: id, title or class name"
    )
    add("--demo", action="store_true", help="take the built-in demo models, and a size that suits them")
    add("--base", type=Path, default=Path(), help="the folder with models/, input/ and output/")
    add("--input", type=Path, help="where pictures come from, instead of input/")
    add("--output", type=Path, help="where videos go, instead of output/")
    add("--sheet", type=Path, metavar="FILE.png", help="also write a contact sheet of the last video")
    add("--preview", type=Path, metavar="FILE.png", help="keep the newest live picture there while it works")
    add("--server", metavar="URL", help="run it on a real ComfyUI, for example http://127.0.0.1:8188")


def run(options: Namespace) -> int:
    """Tries what will be written first, and holds the names of pictures."""
    from ..sana_video_core.files.claims import claim
    from .preview import held

    _check_folders(options)
    with claim(options.sheet) if options.sheet else nullcontext(), held(options):
        return _run(options)


def _check_folders(options: Namespace) -> None:
    from ..sana_video_core.errors import InputError
    from ..sana_video_core.files.claims import try_folder
    from ..sana_video_core.files.places import is_file, is_folder

    for path in filter(None, (options.sheet, options.preview)):
        if path.suffix.lower() != ".png":
            raise InputError(f"“{path}” has to end with .png.")
    if is_file(options.base):
        raise InputError(
            f"--base “{options.base}” is a file. Give the folder that holds models/ and output/."
        )
    if options.input and not is_folder(options.input):
        raise InputError(f"There is no folder “{options.input}” to take pictures from; correct --input.")
    if options.output:
        try_folder(options.output)


def _run(options: Namespace) -> int:
    """Returns 0, or 1 if an output was left out. Raises SanaVideoError, or Cancelled after Ctrl-C."""
    from ..standalone.engine.graph import load_nodes
    from ..standalone.engine.workflow_file import apply_demo, apply_setting, read_workflow, to_prompt

    workflow = read_workflow(options.workflow)
    left_out: list[str] = []  # outputs with a problem, while others ran

    def prepare(info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        prompt = to_prompt(workflow, info)
        if options.demo:
            apply_demo(prompt)
        for setting in options.set:
            apply_setting(prompt, setting, info)
        return prompt, {"workflow": workflow} if "nodes" in workflow else {}

    if options.server:
        from .server import run_on_server

        output = options.output or options.base / "output"
        files = run_on_server(options.server, prepare, output, left_out.append, _show(options))
    else:
        files = _run_here(options, prepare, load_nodes(), left_out.append)
    if options.sheet:
        _write_sheet(files, options.sheet)
    return 1 if left_out else 0


def _show(options: Namespace) -> Callable[[Image.Image], object] | None:
    """Where live pictures go."""
    from .preview import into

    return into(options.preview) if options.preview else None


def _run_here(
    options: Namespace, prepare: Any, classes: dict[str, Any], left_out: Callable[[str], object]
) -> list[Path]:
    import folder_paths

    from ..sana_video_core.errors import InputError
    from ..standalone.engine.executor import Executor
    from ..standalone.engine.strangers import HERE, strangers
    from ..standalone.temp import own_temp
    from .console import Console

    folder_paths.set_base_directory(str(options.base))
    if options.input:
        folder_paths.set_input_directory(str(options.input.absolute()))
    if options.output:
        folder_paths.set_output_directory(str(options.output.absolute()))
    info = {name: node.GET_NODE_INFO_V1() for name, node in classes.items()}
    prompt, extra = prepare(info)
    if unknown := strangers(prompt, classes, HERE):
        raise InputError("\n".join(unknown))
    _draw_example(prompt, Path(folder_paths.get_input_directory()))
    with own_temp(), Console(prompt, left_out, _show(options)) as console:
        Executor(classes, console.tell).run(prompt, extra, None if options.preview else "none")
    root = folder_paths.get_output_directory()
    files = [Path(root, file["subfolder"], file["filename"]) for file in console.files]
    console.say_saved(files)
    return files


def _draw_example(prompt: dict[str, Any], folder: Path) -> None:
    """ComfyUI ships an example.png; here one is drawn when a workflow asks for it."""
    needed = any(
        n["class_type"] == "LoadImage" and n["inputs"].get("image") == "example.png" for n in prompt.values()
    )
    if not needed:
        return
    from ..sana_video_core.files.atomic import atomic_path, make_folder
    from ..sana_video_core.files.places import is_file

    if not is_file(folder / "example.png"):
        from PIL import Image, ImageDraw, ImageOps

        picture = ImageOps.colorize(Image.linear_gradient("L"), "royalblue", "mistyrose").resize((832, 480))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 340, 832, 480), fill=(70, 120, 80))
        draw.ellipse((340, 200, 500, 360), fill=(220, 60, 50))
        make_folder(folder)
        with atomic_path(folder / "example.png") as new:
            picture.save(new, format="PNG")


def _write_sheet(files: list[Path], sheet: Path) -> None:
    from ..sana_video_core.errors import InputError
    from .sheet import write_sheet

    videos = [file for file in files if file.suffix == ".mp4"]
    if not videos:
        raise InputError(
            "A contact sheet was asked for, but this workflow saves no video; add a Save Video node."
        )
    write_sheet(videos[-1], sheet)
