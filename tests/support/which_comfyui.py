"""Which ComfyUI the tests run in: that of COMFYUI_PATH, or the one at comfy-cli's default place."""

from __future__ import annotations

import os
import re
from pathlib import Path

COMFYUI = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")


def missing() -> str | None:
    """Why the tests that need ComfyUI are skipped; None where one is found."""
    if (COMFYUI / "main.py").is_file():
        return None
    needed = "with a .venv in it, or its packages in this environment"
    return f"no ComfyUI at {COMFYUI}; set COMFYUI_PATH to one ({needed})"


def version() -> str:
    """Its version, as in 0.33.0."""
    text = (COMFYUI / "comfyui_version.py").read_text(encoding="utf-8")
    return re.findall(r'__version__ = "(.+)"', text)[0]


def pytest_report_header() -> str:
    return missing() or f"ComfyUI {version()} at {COMFYUI}"
