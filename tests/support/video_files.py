"""Videos whose frames show their numbers, and what a folder or a file holds."""

import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter

ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 96)  # height, width
posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def grey(*numbers, size=SIZE):
    """One frame [3, 1, H, W] per number, whose brightness is the number (0 … 59)."""
    return torch.cat([torch.full((3, 1, *size), (4 * number + 10.5) / 127.5 - 1) for number in numbers], 1)


def numbers_in(pixels):
    """The numbers in [1, 3, n, H, W] that `grey` made."""
    return ((pixels.mean((0, 1, 3, 4)) + 1) * 127.5 - 10.5).div(4).round().long().tolist()


def write_numbers(path, count, **options):
    with VideoWriter(path, **options) as writer:
        writer.write(grey(*range(count)))
    return path


def boxes(path):
    """The names of an MP4's outermost boxes."""
    data, position, names = path.read_bytes(), 0, []
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        names.append(name.decode("latin-1"))
        position += max(length, 8)
    return names


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def run_python(code, *arguments, **options):
    """Start a Python process that imports this checkout and runs `code`."""
    head = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest, torch, time\n"
    head += "from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter\n"
    head += "from comfyui_sana_video.sana_video_core.files.video_reader import read_frames\n"
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
