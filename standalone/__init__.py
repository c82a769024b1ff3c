"""Runs the pack's own node classes and workflow files where there is no ComfyUI."""

import sys
from importlib.util import find_spec
from pathlib import Path

FAKE_COMFY = str(Path(__file__).parent / "fake_comfy")


def use_fake_comfy() -> bool:
    """Put the fake ComfyUI's modules in front of sys.path, unless a real ComfyUI can be imported.

    Returns whether the fake ComfyUI is used. Safe to call again.
    """
    if FAKE_COMFY not in sys.path and not (find_spec("comfy_api") or find_spec("folder_paths")):
        sys.path.insert(0, FAKE_COMFY)
    return FAKE_COMFY in sys.path
