"""What the browser is sent to: our studio, and a real ComfyUI where one is found."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
from conftest import command_line  # noqa: E402
from support.comfyui import missing, running  # noqa: E402

FRONTEND = os.environ.get("SANA_VIDEO_FRONTEND")  # another version of the page's files


NO_COMFYUI = missing()


class Site(NamedTuple):
    kind: str
    url: str
    base: Path


@contextmanager
def studio(base: Path) -> Iterator[Site]:
    words = ["studio", "--no-browser", "--base", base, "--port", 0]
    words += ["--front-end-root", FRONTEND] if FRONTEND else []
    with (base / "studio.log").open("w") as log:
        process = subprocess.Popen(command_line(*words), stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline()
        address = re.search(r"http://\S+", line)
        assert address, (line, (base / "studio.log").read_text())
        yield Site("studio", address[0], base)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (base / "studio.log").read_text()


@contextmanager
def comfyui(base: Path) -> Iterator[Site]:
    with running(base, "--preview-method", "latent2rgb") as server:
        yield Site("comfyui", server.url, base)
