"""Where files are: models/, input/, output/ and temp/ under one base directory."""

import os
import re
import time
from functools import partial
from pathlib import Path

supported_pt_extensions = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}
_folders = {"diffusion_models": ("unet", "diffusion_models"), "text_encoders": ("text_encoders", "clip")}
_folders |= {"vae": ("vae",), "vae_approx": ("vae_approx",), "loras": ("loras",), "diffusers": ("diffusers",)}
_roots: dict[str, str] = {}


def set_base_directory(folder):
    """Only in the fake ComfyUI: what --base-directory is to the real one."""
    _roots.update(
        {name: str(Path(folder).absolute() / name) for name in ("models", "input", "output", "temp", "user")}
    )


set_base_directory(".")
get_input_directory, set_input_directory = (
    partial(_roots.__getitem__, "input"),
    partial(_roots.__setitem__, "input"),
)
get_output_directory, set_output_directory = (
    partial(_roots.__getitem__, "output"),
    partial(_roots.__setitem__, "output"),
)
get_temp_directory, set_temp_directory = (
    partial(_roots.__getitem__, "temp"),
    partial(_roots.__setitem__, "temp"),
)

get_user_directory = partial(_roots.__getitem__, "user")


def get_folder_paths(folder_name):
    return [f"{_roots['models']}{os.sep}{name}" for name in _folders[folder_name]]


def get_filename_list(folder_name):
    walks = (
        (root, *step) for root in get_folder_paths(folder_name) for step in os.walk(root, followlinks=True)
    )
    files = {os.path.relpath(f"{folder}/{name}", root) for root, folder, _, names in walks for name in names}
    return sorted(name for name in files if Path(name).suffix.lower() in supported_pt_extensions)


def get_full_path(folder_name, filename):
    inside = os.path.relpath(f"/{filename}", "/")  # "..", too, stays in the folder
    paths = [f"{root}{os.sep}{inside}" for root in get_folder_paths(folder_name)]
    return next((path for path in paths if os.path.isfile(path)), None)  # noqa: PTH113  never raises, as there


def get_annotated_filepath(name, default_dir=None):
    """The path behind "name", "name [input]", "name [output]" or "name [temp]"."""
    marked = re.fullmatch(r"(.*?) ?\[(input|output|temp)\]", name, re.DOTALL)
    bare, root = (marked[1], _roots[marked[2]]) if marked else (name, default_dir or _roots["input"])
    if not Path(root, bare).resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(f"“{name}” lies outside {root}.")
    return str(Path(root, bare))


def exists_annotated_filepath(name):
    try:
        return os.path.exists(get_annotated_filepath(name))  # noqa: PTH110  as above
    except ValueError:
        return False


def get_save_image_path(filename_prefix, output_dir, image_width=0, image_height=0):
    """(folder, name, next free number, subfolder, prefix) for files named like name_00001_.png."""
    words = {"width": str(image_width), "height": str(image_height)}
    words |= {word: time.strftime(f"%{word[0].upper()}") for word in ("year", "hour", "minute", "second")}
    for word, value in (words | {"month": time.strftime("%m"), "day": time.strftime("%d")}).items():
        filename_prefix = filename_prefix.replace(f"%{word}%", value)
    subfolder, name = os.path.split(os.path.normpath(filename_prefix))
    folder = Path(output_dir, subfolder)
    if not folder.resolve().is_relative_to(Path(output_dir).resolve()):
        raise ValueError(f"“{filename_prefix}” lies outside the output folder {output_dir}.")
    folder.mkdir(parents=True, exist_ok=True)
    taken = [re.match(rf"{re.escape(name)}_(\d+)", path.name) for path in folder.iterdir()]
    return str(folder), name, max((int(m[1]) for m in taken if m), default=0) + 1, subfolder, filename_prefix
