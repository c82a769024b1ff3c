"""A film that is killed at any moment, on a full disk, over a damaged store: it goes on, to the same bits.

`python -m pytest tests/torture/test_film_kills.py --full -s` kills eleven films up to ten times each, in some
minutes; the suite kills one of smaller pictures.
"""

import logging
import os
import random
import shutil
import signal
from pathlib import Path
from unittest.mock import patch

import pytest

if os.name != "posix":
    pytest.skip("kills as POSIX does", allow_module_level=True)
import resource

from comfyui_sana_video.command_line import models
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.demo.model_set import write_demo_set
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.tensor_file import read_tensors
from comfyui_sana_video.sana_video_core.films import keeping
from comfyui_sana_video.sana_video_core.films.layout import DAMAGED, KINDS
from comfyui_sana_video.sana_video_core.films.store import Store
from PIL import Image
from support.films import PACK, SCRIPT, Studio, Toy, pictures
from support.forks import begin
from test_kills import hidden

TEXT = "0:00 a red ball\n0:02 keep: a blue square\n0:05 a star\n0:07 cut: a green ball\n0:10 end\n"
CHUNKS, KILLS = 4, 10
FILMS = {"plain": [], "image": ["--image", "../begin.png"]}


def pytest_generate_tests(metafunc):
    full = metafunc.config.getoption("--full")
    if "kind" in metafunc.fixturenames:
        cases = [(list(FILMS)[seed % 2], seed) for seed in range(11)] if full else [("image", None)]
        metafunc.parametrize("kind, seed", cases)
    elif "room" in metafunc.fixturenames:
        metafunc.parametrize("room", range(100) if full else [90])
    elif "damage" in metafunc.fixturenames:
        metafunc.parametrize("damage", range(30) if full else [5])


def film(kind, size):
    """Makes the film in the folder where it is; its file `made` gets a line for each sampled chunk."""
    Path("script.txt").write_text(TEXT, encoding="utf-8")
    keep = keeping.Keeping.chunk

    def counted(self, chunk):
        with Path("primed" if chunk.primed else "made").open("a") as file:
            file.write(f"{chunk.length}\n")
        keep(self, chunk)

    keeping.Keeping.chunk = counted
    words = ["--size", size, "--steps", "1", "--state-out", "s.safetensors", "--out", "f.mp4"]
    return main(["film", "script.txt", *words, *FILMS[kind]])


def content(path):
    """All bytes of a state's tensors, and its metadata; the order of that in a file is by chance."""
    tensors, metadata = read_tensors(path)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, metadata


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def made(folder):
    """How many chunks were sampled there, in all."""
    return len((folder / "made").read_text().split()) if (folder / "made").exists() else 0


def stored(folder):
    """How many of the sampled chunks are in the store."""
    entries = len(list((folder / "sana_films/store/chunks").rglob("*.safetensors")))
    return entries - (entries > 0 and (folder / "primed").exists())


@pytest.fixture(scope="module")
def size(request):
    return "128x96" if request.config.getoption("--full") else "32x16"


@pytest.fixture(scope="module", autouse=True)
def quick_set(request, tmp_path_factory):
    """A random set in place of the trained one, which the campaign takes."""
    if request.config.getoption("--full"):
        yield
        return
    random_set = write_demo_set(tmp_path_factory.mktemp("demo") / "set")
    with patch.object(models, "demo_set", lambda: random_set):
        yield


@pytest.fixture(scope="module")
def wholes(tmp_path_factory, size):
    """Each film, made at once, over a store of its own: its seconds of work, pictures, state and folder."""
    known, folder = {}, tmp_path_factory.mktemp("whole")
    Image.effect_noise((160, 120), 90).convert("RGB").save(folder / "begin.png")

    def whole(kind):
        if kind not in known:
            place = folder / kind
            _, status, used = os.wait4(begin(lambda: film(kind, size), place), 0)
            assert status == 0
            seconds = used.ru_utime + used.ru_stime
            assert made(place) == CHUNKS
            known[kind] = seconds, pictures(place / "f.mp4"), content(place / "s.safetensors"), place
        return known[kind]

    return whole


def check_store(folder, caplog):
    """No name in it holds half an entry."""
    store = Store(folder / "sana_films/store")
    for kind in KINDS:
        for path in (store.folder / kind).rglob("*.safetensors"):
            assert store.read(kind, path.stem) is not None, path
    assert not caplog.records


def killed_after(seconds, work):
    """Work that is killed once it has taken so many seconds of a core; those of others don't count."""

    def run():
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends it, as kill -9 does
        signal.setitimer(signal.ITIMER_PROF, seconds)
        return work()

    return run


def test_killed_films_go_on(kind, seed, size, tmp_path, wholes, caplog):
    seconds, shown, state, place = wholes(kind)
    shutil.copy(place.parent / "begin.png", tmp_path)
    chance, folder, told = random.Random(f"{kind} {seed}"), tmp_path / "killed", []
    for _ in range(KILLS if seed is not None else 1):
        before, wait = made(folder), seconds * (0.5 if seed is None else 0.45 * chance.random())
        if ended(begin(killed_after(max(wait, 0.001), lambda: film(kind, size)), folder)) == 0:
            break
        told.append(f"{wait:.2f} s ({made(folder) - before} made)")
        assert made(folder) - stored(folder) <= len(told)  # the finished chunk that is still being written
        check_store(folder, caplog)
        assert not (folder / "f.mp4").exists()
    again, missing = made(folder), CHUNKS - stored(folder)
    assert ended(begin(lambda: film(kind, size), folder)) == 0
    print(  # noqa: T201
        f"{kind} {seed}: {len(told)} kills at {', '.join(told)}; {made(folder) - again} made then, "
        f"{made(folder) - CHUNKS} again in all"
    )
    assert made(folder) - again == missing
    assert made(folder) - CHUNKS <= len(told)
    assert pictures(folder / "f.mp4") == shown
    assert content(folder / "s.safetensors") == state
    assert not hidden(folder)
    check_store(folder, caplog)
    files = {"f.mp4", "s.safetensors", "script.txt", "made", "primed", "sana_films"}
    assert {path.name for path in folder.iterdir()} <= files
    assert not list(folder.rglob(f"*{DAMAGED}"))


# --- a full disk, under a film of toys


@pytest.fixture(scope="module")
def toys():
    return PACK.tiny_model(heads=1, depth=1), Toy()


@pytest.fixture(scope="module")
def toy_film(toys, tmp_path_factory):
    studio = Studio(*toys, tmp_path_factory.mktemp("toy"))
    state = studio.make()
    return studio, state, pictures(studio.path)


def test_a_full_disk_costs_no_more_than_what_does_not_fit(room, toy_film, toys, tmp_path):
    """No file may grow over so many bytes; the sizes to try are spread over those of all files."""
    whole, _, shown = toy_film
    sizes = [path.stat().st_size for path in whole.folder.rglob("*") if path.is_file()]
    limit = random.Random(room).randrange(2 * max(sizes))
    older, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    studio, said = Studio(*toys, tmp_path), "whole"
    studio.overlap = bool(room % 2)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, older[1]))
        studio.make()
    except FileError as error:
        said = f"{len(pictures(studio.path)) if studio.path.exists() else 0} frames: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, older)
        signal.signal(signal.SIGXFSZ, ignored)
    print(f"{limit} bytes: {said}"[:150])  # noqa: T201
    left = pictures(studio.path) if studio.path.exists() else []
    assert left == shown[: len(left)]
    assert (left == shown) == (said == "whole")
    assert not hidden(tmp_path)
    studio.make(*SCRIPT)
    assert pictures(studio.path) == shown
    assert not hidden(tmp_path)
    assert not list(tmp_path.rglob(f"*{DAMAGED}"))


# --- a store that somebody has been at


def _harm(path, other, chance):
    """Damages an entry in one of many ways; says in which."""
    data = path.read_bytes()
    way = chance.choice(
        ("cut", "bit", "empty", "gone", "foreign", "words", "longer", "folder", "loop", "header")
    )
    if way in ("gone", "folder", "loop"):
        path.unlink()
    if way == "cut":
        path.write_bytes(data[: chance.randrange(len(data))])
    elif way == "bit":
        place = chance.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :])
    elif way in ("empty", "words", "longer"):
        path.write_bytes({"empty": b"", "words": b"<html>not found</html>", "longer": data + b"\0"}[way])
    elif way == "foreign":
        path.write_bytes(other.read_bytes())
    elif way == "header":
        path.write_bytes((1 << 40).to_bytes(8, "little") + data[8:])
    elif way == "folder":
        path.mkdir()
    elif way == "loop":
        path.symlink_to(path)
    return way


def test_a_damaged_store_is_mended(damage, size, wholes, tmp_path, monkeypatch, caplog):
    """Any number of entries of a real film, each in one of ten ways."""
    kind = list(FILMS)[damage % 2]
    _, shown, state, place = wholes(kind)
    shutil.copy(place.parent / "begin.png", tmp_path)
    folder, chance = tmp_path / "film", random.Random(damage)
    shutil.copytree(place, folder)
    entries = sorted((folder / "sana_films/store").rglob("*.safetensors"))
    some = chance.sample(entries, chance.choice((1, 2, 3, len(entries))))
    ways = [_harm(path, chance.choice(entries), chance) if path.is_file() else "" for path in some]
    before = made(folder)
    monkeypatch.chdir(folder)
    keep = keeping.Keeping.chunk
    caplog.set_level(logging.WARNING)
    assert film(kind, size) == 0
    keeping.Keeping.chunk = keep
    chunks = sum(path.parent.parent.name == "chunks" for path in some)
    print(f"{kind} {damage}: {', '.join(ways)}; {made(folder) - before} of {chunks} chunks made again")  # noqa: T201
    assert made(folder) - before <= chunks
    assert pictures(folder / "f.mp4") == shown
    assert content(folder / "s.safetensors") == state
    assert not [record for record in caplog.records if "law is broken" in record.getMessage()]
    caplog.clear()
    assert film(kind, size) == 0
    keeping.Keeping.chunk = keep
    assert pictures(folder / "f.mp4") == shown
