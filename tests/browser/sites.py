"""What the browser is sent to: our studio, and a real ComfyUI where one is found."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "comfy"))
from comfyui import missing, running  # noqa: E402

CODE = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import conftest;"
    "from comfyui_sana_video.command_line.cli import main; sys.exit(main())"
)
FRONTEND = os.environ.get("SANA_VIDEO_FRONTEND")  # another version of the page's files


NO_COMFYUI = missing()


class Site(NamedTuple):
    kind: str
    url: str
    base: Path


def studio_command(base: Path, *options: str) -> list[str]:
    root = ["--front-end-root", FRONTEND] if FRONTEND else []
    begin = [sys.executable, "-c", CODE, str(ROOT / "tests"), "studio", "--no-browser"]
    return [*begin, "--base", str(base), *root, *options]


@contextmanager
def studio(base: Path) -> Iterator[Site]:
    with (base / "studio.log").open("w") as log:
        process = subprocess.Popen(
            studio_command(base, "--port", "0"), stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, (line, (base / "studio.log").read_text())
        yield Site("studio", found[0], base)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (base / "studio.log").read_text()


@contextmanager
def comfyui(base: Path) -> Iterator[Site]:
    with running(base, "--preview-method", "latent2rgb") as server:
        yield Site("comfyui", server.url, base)
