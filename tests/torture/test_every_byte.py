"""A disk that is full at any byte of a small save: the older file stays, or the new one is whole.

`python -m pytest tests/torture --full` tries every byte of each kind; the suite tries five of three kinds.
"""

import asyncio
import signal
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

pytest.importorskip("aiohttp")
pytest.importorskip("resource", reason="only Unix limits file sizes")
import resource

from comfy_api.latest import InputImpl
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.audio import Audio
from comfyui_sana_video.sana_video_core.files.film_file import FilmFile
from comfyui_sana_video.sana_video_core.files.image_file import save_frame
from comfyui_sana_video.sana_video_core.files.segments import encode_segment
from comfyui_sana_video.sana_video_core.files.tensor_file import read_tensors, write_tensors
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames
from comfyui_sana_video.sana_video_core.files.video_writer import VideoWriter
from comfyui_sana_video.sana_video_core.films.layout import entry_path
from comfyui_sana_video.sana_video_core.films.store import Store
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state, save_state
from comfyui_sana_video.standalone.engine.core_nodes import SaveVideo
from comfyui_sana_video.standalone.studio import files as page_files
from support import checks_stream
from support.artist import folders
from support.pack import Pack
from support.video_files import grey, numbers_in

SIZE = (32, 32)
SUITE = ("state", "film", "joined", "workflow")
FILMS = ("film", "joined")  # of which the beginning is kept


@contextmanager
def disk(room):
    """No file may grow over this many bytes; the system reports that as it reports a full disk."""
    older = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, older[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, older)


def tensors(path, number):
    write_tensors(path, {"a": torch.full((8,), float(number))}, {"made": "by us"})


def state(path, number):
    save_state(_begun(number + 1), path)


@cache
def _begun(window):
    pack = Pack()
    return checks_stream.begin(pack, pack.tiny_model(), window=window)


def picture(path, number):
    save_frame(torch.full((3, 8, 8), number / 2), path)


def workflow(path, number):
    try:
        asyncio.run(page_files._write(path, b'{"nodes": []}' + b" " * 100 * number))
    except page_files.web.HTTPInsufficientStorage as error:
        raise FileError(error.text) from error


def film(path, number):
    with VideoWriter(path) as writer:
        writer.write(grey(*range(3 + number), size=SIZE))


def joined(path, number):
    """A film of segments of two frames, with sound."""
    with FilmFile(path, fps=16, audio=Audio(torch.zeros(1, 8000), 8000)) as film:
        for part in range(3 + number):
            film.append(_segment(part))


@cache
def _segment(number):
    return encode_segment([grey(2 * number, 2 * number + 1, size=SIZE)], fps=16)


def saved_film(path, number):
    """Save Video of the fake ComfyUI, whose name is ours to choose."""
    source = path.with_name("source.mp4")
    if not source.exists():
        film(source, 0)
    node = type("SaveVideo", (SaveVideo,), {"hidden": SimpleNamespace(extra_pnginfo={}, prompt={})})
    with folders(path.parent):
        node.execute(InputImpl.VideoFromFile(source), "film", "auto", "auto")


def frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def numbers(path):
    """Frames that are whole segments in their order; a film without its sound is one, too."""
    shown = numbers_in(read_frames(path))
    assert shown == list(range(len(shown)))
    assert len(shown) % 2 == 0
    return len(shown)


# how it is written, its suffix, and what is read of it
KINDS = {
    "state": (state, ".safetensors", lambda path: load_state(path).identity),
    "film": (film, ".mp4", frames),
    "joined": (joined, ".mp4", numbers),
    "workflow": (workflow, ".json", Path.read_bytes),
    "tensors": (tensors, ".safetensors", lambda path: read_tensors(path)[0]["a"].tolist()),
    "picture": (picture, ".png", Path.read_bytes),
}


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", KINDS if metafunc.config.getoption("--full") else SUITE)


def rooms(size, request):
    """The sizes of disks to try: every byte, or five."""
    return range(0, size + 2, 1 if request.config.getoption("--full") else size // 4)


@pytest.fixture(autouse=True)
def _ignored():
    older = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGXFSZ, older)


def outcome(write, room):
    with disk(room):
        try:
            write()
        except FileError:
            return "refused"
    return "written"


def test_the_older_file_stays_or_the_new_one_is_whole(kind, tmp_path, request):
    write, suffix, read = KINDS[kind]
    path, other = tmp_path / f"a{suffix}", tmp_path / f"other{suffix}"
    write(other, 1)
    new, size = read(other), other.stat().st_size
    other.unlink()
    write(path, 0)
    old, before, said = read(path), path.read_bytes(), []
    for room in rooms(size + 600, request):  # a film's fragments are a little longer
        said.append(outcome(partial(write, path, 1), room))
        assert [file.name for file in tmp_path.iterdir()] == [path.name], room
        if said[-1] == "written":
            assert read(path) == new, room
        elif path.read_bytes() != before:
            assert kind in FILMS, room
            assert read(path) >= 1, room
        path.write_bytes(before)
    assert old != new
    assert (said[0], said[-1]) == ("refused", "written")
    print(f"{kind}: {said.count('refused')} of {len(said)} disks were too small")  # noqa: T201


def test_a_video_saved_without_comfyui_has_no_name_until_it_is_whole(tmp_path, request):
    if not request.config.getoption("--full"):
        pytest.skip("one of --full")
    path = tmp_path / "film.mp4"
    saved_film(path, 0)
    output = tmp_path / "output"
    (whole,) = [file.read_bytes() for file in output.iterdir()]
    for room in rooms(len(whole), request):
        said = outcome(partial(saved_film, path, 0), room)
        assert len(list(output.iterdir())) == (2 if said == "written" else 1), room
        assert said == ("written" if room >= len(whole) else "refused"), room
        if said == "written":
            (output / "film_00002_.mp4").unlink()


def test_an_entry_of_a_store_is_whole_or_not_there(tmp_path, request):
    store, key, made = Store(tmp_path), "ab" * 32, {"latents": torch.arange(8.0)}
    store.write("chunks", key, made, {})
    path = entry_path(tmp_path, "chunks", key)
    size, said = path.stat().st_size, []
    for room in rooms(size, request):
        path.unlink(missing_ok=True)
        said.append(outcome(partial(store.write, "chunks", key, made, {}), room))
        assert [file.name for file in tmp_path.glob(".*")] == [], room
        assert (store.read("chunks", key) is not None) == path.exists() == (said[-1] == "written"), room
    assert (said[0], said[-1]) == ("refused", "written")
