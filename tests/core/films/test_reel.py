"""A film's parts from the store and from the decoder; what the store has wrong is made again."""

from __future__ import annotations

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.film_file import FilmFile
from comfyui_sana_video.sana_video_core.files.image_file import frame_bytes
from comfyui_sana_video.sana_video_core.files.segments import encode_segment
from comfyui_sana_video.sana_video_core.films.layout import entry_path
from comfyui_sana_video.sana_video_core.films.reel import Look, Part, Reel
from comfyui_sana_video.sana_video_core.films.store import Store
from support.films import FPS, pictures
from support.video_files import grey

COUNTS = (3, 4, 2)
SIZE = (16, 32)
LOOK = Look(vae="vae", vae_dtype="float32", kernels="plain", compute="here", fps=FPS, codec="h264")


def key(number: int) -> str:
    return f"{number:064x}"


def part(number: int) -> torch.Tensor:
    begin = sum(COUNTS[:number])
    return frame_bytes(grey(*range(begin, begin + COUNTS[number]), size=SIZE)[None])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def reel(tmp_path, store):
    """Puts the film together; gives its pictures and which parts were asked for."""

    def run(pieces=None, *, tiling=lambda: "whole", path=tmp_path / "f.mp4", **options):
        options = {"codec": "h264", "look": LOOK, "store": store, "tiling": tiling, **options}
        parts = [Part(key(number), frames) for number, frames in enumerate(COUNTS)]
        with FilmFile(path, fps=FPS) as file:
            made = Reel(file, parts, **options)
            frames = [part(number) for number in sorted(made.missing)]
            made.work(iter(frames if pieces is None else pieces(frames)))
        return pictures(path), made

    return run


def whole(tmp_path):
    with FilmFile(tmp_path / "whole.mp4", fps=FPS) as file:
        for number in range(len(COUNTS)):
            file.append(encode_segment([part(number)], fps=FPS))
    return pictures(tmp_path / "whole.mp4")


def cut(frames):
    """In other portions: of one frame, and over the borders of parts."""
    joined = torch.cat(frames)
    return joined[:1], joined[1:6], joined[6:]


def test_frames_come_in_any_portions(reel, tmp_path):
    shown, made = reel(cut)
    assert shown == whole(tmp_path)
    assert made.missing == {0, 1, 2}
    assert reel()[1].missing == set()
    assert reel()[0] == shown


WRONG = {
    "no pictures": lambda store, good: ({"other": torch.zeros(3)}, {"frames": 4}),
    "another type": lambda store, good: ({"mp4": torch.zeros(3)}, {"frames": 4}),
    "no film": lambda store, good: ({"mp4": torch.arange(200, dtype=torch.uint8)}, {"frames": 4}),
    "nothing": lambda store, good: ({"mp4": torch.zeros(0, dtype=torch.uint8)}, {"frames": 4}),
    "cut off": lambda store, good: ({"mp4": good[: len(good) // 2]}, {"frames": 4}),
    "fewer frames": lambda store, good: ({"mp4": _data(encode_segment([part(2)], fps=FPS))}, {"frames": 4}),
    "another rate": lambda store, good: ({"mp4": _data(encode_segment([part(1)], fps=24))}, {"frames": 4}),
}


def _data(segment: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(segment), dtype=torch.uint8)


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_sealed_entry_that_is_no_such_part_is_made_again(reel, store, tmp_path, wrong):
    """Somebody has written it under this key, as a whole entry."""
    shown, made = reel()
    path = entry_path(store.folder, "segments", made.keys[1])
    good = store.read("segments", made.keys[1]).tensors["mp4"]
    path.unlink()
    store.write("segments", made.keys[1], *wrong(store, good))
    again, made = reel()
    assert made.missing == {1}
    assert again == shown


def test_the_first_writer_s_part_counts(reel, store, tmp_path):
    """An encoder on several threads may write other bytes for the same frames."""
    others = encode_segment([part(1) + 1], fps=FPS)

    def somebody_writes(frames):
        for number, piece in enumerate(frames):
            if number == 1:
                store.write("segments", LOOK.key(key(1)), {"mp4": _data(others)}, {"frames": 4})
            yield piece

    shown, _ = reel(somebody_writes)
    assert len(shown) == sum(COUNTS)
    assert shown == reel()[0]
    assert shown != whole(tmp_path)


def test_what_was_decoded_in_tiles_for_want_of_memory_is_in_no_store(reel, store):
    """It fell back to tiles within the second part: only the first is what its key says."""
    tilings = iter(["whole", "tiles", "tiles"])  # asked when a part is whole
    _, made = reel(tiling=lambda: next(tilings))
    assert [store.read("segments", each) is not None for each in made.keys] == [True, False, False]
    assert reel()[1].missing == {1, 2}


def test_tiles_that_were_asked_for_are_kept_under_their_name(reel, store):
    tiled = Look(**{name: getattr(LOOK, name) for name in LOOK.__slots__} | {"tiling": "tiles"})
    assert reel(look=tiled, tiling=lambda: "tiles")[1].missing == {0, 1, 2}
    assert reel(look=tiled, tiling=lambda: "tiles")[1].missing == frozenset()
    assert reel()[1].missing == {0, 1, 2}


def test_what_is_known_is_read_although_nothing_can_be_written(reel, store, tmp_path, monkeypatch, caplog):
    shown, made = reel()
    for number in (0, 1):
        entry_path(store.folder, "segments", made.keys[number]).unlink()

    def full(*_):
        raise FileError("The disk is full.")

    monkeypatch.setattr(Store, "write", full)
    assert reel()[0] == shown
    assert [record.getMessage() for record in caplog.records] == [
        "The disk is full. The film goes on; after a crash, this part would be decoded again."
    ]


@pytest.mark.parametrize("missing", ["store", "look"])
def test_without_a_store_or_a_name_all_is_decoded(reel, tmp_path, missing):
    for _ in range(2):
        shown, made = reel(**{missing: None})
        assert shown == whole(tmp_path)
        assert len(made.missing) == 3


def test_a_part_that_disappears_meanwhile_is_said(reel, store):
    _, made = reel()
    paths = [entry_path(store.folder, "segments", each) for each in made.keys]
    paths[0].unlink()

    def gone(frames):
        paths[1].unlink()
        yield from frames

    with pytest.raises(FileError, match=r"has disappeared from the store\. Make the film again"):
        reel(gone)
