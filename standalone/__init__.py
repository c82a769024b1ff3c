"""Runs the pack's own node classes and workflow files where there is no ComfyUI."""

import sys
from importlib.util import find_spec
from pathlib import Path

DOUBLE = str(Path(__file__).parent / "fake_comfy")


def use_double() -> bool:
    """Put the double of ComfyUI's modules in front of sys.path, unless a real ComfyUI can be imported.

    Returns whether the double serves. Safe to call again.
    """
    if DOUBLE not in sys.path and not (find_spec("comfy_api") or find_spec("folder_paths")):
        sys.path.insert(0, DOUBLE)
    return DOUBLE in sys.path
