"""Videos whose frames show their numbers, and what a folder or a file holds."""

import os
import struct
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
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


def film(path, pictures, codec="libx264", rate=16, times=None, options=None, **context):
    """A film of arrays [H, W, 3], or of frames as they are; `context` goes to the encoder."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "1", **(options or {})})
        frames = [av.VideoFrame.from_ndarray(p) if isinstance(p, np.ndarray) else p for p in pictures]
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = context.pop("pix_fmt", "yuv420p")
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = times[index] if times else index, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_matrix(path, a, b, c, d):
    """The MP4 with another display matrix: a point (x, y) is shown at (a·x + c·y, b·x + d·y)."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # after version, times, track, duration, layer, volume
    one = 1 << 16
    struct.pack_into(">9i", data, matrix, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
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
