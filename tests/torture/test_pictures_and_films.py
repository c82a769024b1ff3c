"""Damaged pictures and films: each is read, or refused in a sentence, soon and in little memory.

`python -m pytest tests/torture --full` tries 400; the suite tries two.
"""

import os
import random
import resource
import signal
import sys
import time
import traceback

import numpy as np
import pytest
from comfyui_sana_video.sana_video_core.errors import SanaVideoError
from comfyui_sana_video.sana_video_core.files.image_file import read_image
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames, read_metadata
from PIL import Image
from support.video_files import film

if not hasattr(os, "fork"):
    pytest.skip("each file is read in a process of its own, as POSIX makes them", allow_module_level=True)

CASES, IN_SUITE = 400, 2
SECONDS, MEBIBYTES = 30, 1024
READ, REFUSED, RAISED = 0, 10, 11  # exit statuses of a reading

FILMS = {
    "mp4": ("libx264", "yuv420p"),
    "mkv": ("libx264", "yuv420p"),
    "webm": ("libvpx", "yuv420p"),
    "mov": ("mjpeg", "yuvj420p"),
    "avi": ("mpeg4", "yuv420p"),
    "ts": ("libx264", "yuv420p"),
    "flv": ("libx264", "yuv420p"),
    "gif": ("gif", "rgb8"),
    "mpg": ("mpeg2video", "yuv420p"),
}
PICTURES = ("png", "jpg", "webp", "gif", "tif", "bmp", "ppm")


def pytest_generate_tests(metafunc):
    full = metafunc.config.getoption("--full", default=False)
    metafunc.parametrize("seed", range(CASES if full else IN_SUITE))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files that are right, by ending."""
    folder = tmp_path_factory.mktemp("whole")
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for ending, (codec, pix_fmt) in FILMS.items():
        pictures = [np.ascontiguousarray(np.roll(noise, 3 * shift, 1)) for shift in range(40)]
        options = {"crf": "30"} if codec.startswith("lib") else {}
        film(folder / f"a.{ending}", pictures, codec, rate=25, options=options, pix_fmt=pix_fmt)
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in PICTURES:
        extra = {"exif": exif, "dpi": (72, 100)} if ending in ("png", "jpg", "tif") else {}
        Image.fromarray(noise).save(folder / f"b.{ending}", **extra)
    Image.fromarray((noise[..., 0] * 257.0).astype(np.uint16)).save(folder / "c.png")
    Image.fromarray(noise[..., 0].astype(np.float32)).save(folder / "c.tif")
    return sorted(folder.iterdir())


def damaged(data, rng):
    """The bytes of a file, with up to three kinds of damage."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(min(len(data), rng.choice((64, 1024, 1 << 30)))) if data else 0
        kind = rng.choice(("cut", "flip", "flip", "zero", "huge", "insert", "repeat", "remove"))
        if kind == "cut":
            del data[place:]
        elif kind == "flip":
            for _ in range(rng.choice((1, 4, 40))):
                spot = rng.randrange(place, min(len(data), place + 4096)) if place < len(data) else 0
                data[spot : spot + 1] = bytes([rng.randrange(256)])
        elif kind in ("zero", "huge"):
            size = rng.choice((1, 2, 4, 8, 256))
            data[place : place + size] = (b"\0" if kind == "zero" else rng.choice((b"\xff", b"\x7f"))) * size
        elif kind == "insert":
            data[place:place] = rng.randbytes(rng.choice((1, 16, 5000)))
        elif kind == "repeat":
            data[place:place] = data[place : place + rng.choice((8, 500, 5000))]
        else:
            del data[place : place + rng.choice((1, 8, 500))]
    return bytes(data)


def read(path):
    """The exit status of reading the file with all readers."""
    status = REFUSED
    for reader in (
        lambda: read_image(path, width=48, height=32),
        lambda: read_frames(path, last=41, width=48, height=32),
        lambda: read_metadata(path),
    ):
        try:
            reader()
            status = READ
        except SanaVideoError as error:
            if not str(error).startswith(("“", "There is")) or len(str(error)) > 1000:
                raise
    return status


def in_a_child(path, words):
    """(status, seconds, MiB more than here) of reading a file in a process of its own."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = os.fork()
    if not child:
        status = RAISED
        try:
            signal.alarm(SECONDS)
            sys.stdout = sys.stderr = words.open("w")
            status = read(path)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, ended, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(ended), time.monotonic() - began, (usage.ru_maxrss - before) / 1024


def test_a_damaged_file_is_read_or_refused_in_a_sentence(whole, tmp_path, seed):
    rng = random.Random(seed)
    source = rng.choice(whole)
    path = tmp_path / f"damaged{source.suffix}"
    path.write_bytes(damaged(source.read_bytes(), rng))
    status, seconds, more = in_a_child(path, tmp_path / "words")
    told = f"seed {seed}, {source.name}: {(tmp_path / 'words').read_text()}"
    assert status in (READ, REFUSED), told
    assert seconds < SECONDS, told
    assert more < MEBIBYTES, told
