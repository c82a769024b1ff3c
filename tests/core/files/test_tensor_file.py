"""Reading files of tensors, however broken, and writing them completely or not at all."""

from __future__ import annotations

import argparse
import collections
import errno
import json
import os
import pickle
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import atomic, tensor_file
from comfyui_sana_video.sana_video_core.files.atomic import atomic_path
from comfyui_sana_video.sana_video_core.files.parts import read_parts
from comfyui_sana_video.sana_video_core.files.tensor_file import (
    parse_json,
    read_json,
    read_metadata,
    read_safetensors,
    read_tensors,
    write_tensors,
)
from safetensors.torch import save_file
from support.checkpoint_files import DIFFUSERS_WEIGHTS, cuts, refusal

TENSORS = {
    "a": torch.arange(12.0).view(3, 4),
    "b": torch.ones(5, dtype=torch.bfloat16),
    "c": torch.tensor(7.0),
}


def _same(actual, expected) -> bool:
    return actual.keys() == expected.keys() and all(
        actual[n].dtype == expected[n].dtype and torch.equal(actual[n], expected[n]) for n in expected
    )


def _files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- reading


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".PTH"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_pickles_of_tensors(tmp_path, suffix, new):
    path = tmp_path / f"x{suffix}"
    for content in (
        TENSORS,
        {"state_dict": TENSORS, "epoch": 1},
        {"generator": TENSORS, "critic": {"z": TENSORS["a"]}},
    ):
        torch.save(content, path, _use_new_zipfile_serialization=new)
        tensors, metadata = read_tensors(path)
        assert _same(tensors, TENSORS)
        assert metadata == {}


def test_safetensors_with_metadata(tmp_path):
    for name in ("x.safetensors", "X.SAFETENSORS"):
        save_file(TENSORS, tmp_path / name, {"note": "ü"})
        tensors, metadata = read_tensors(tmp_path / name)
        assert _same(tensors, TENSORS)
        assert metadata == read_metadata(tmp_path / name) == {"note": "ü"}


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_every_truncation_is_refused_with_a_reason(tmp_path, kind):
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    assert _same(read_tensors(path)[0], TENSORS)
    for length in range(len(whole)) if kind != "zip" else cuts(len(whole)):
        path.write_bytes(whole[:length])
        assert path.name in refusal(lambda: read_tensors(path), FileError)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns about what it reads
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_flipped_bytes_give_tensors_or_a_file_error(tmp_path, kind):
    """Loaders judge what can be read; here nothing but FileError may be raised."""
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(whole)
        for place in generator.integers(0, len(whole), 4):
            broken[place] = generator.integers(0, 256)
        path.write_bytes(broken)
        try:
            read_tensors(path)
        except FileError:
            refused += 1
    assert refused > 30


class _Runs:
    """A pickle that touches a file as soon as somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_does_not_run(tmp_path, new):
    path, mark = tmp_path / "x.pth", tmp_path / "it ran"
    torch.save({"state_dict": TENSORS, "extra": _Runs(mark)}, path, _use_new_zipfile_serialization=new)
    message = refusal(lambda: read_tensors(path), FileError)
    assert "can run code" in message
    assert "mkdir" in message
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "unpickling the file runs nothing, so this test proves nothing"


@pytest.mark.parametrize(
    "foreign, name",
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (torch.nn.Linear(2, 2), "Linear"),
        (Path("x"), "Path"),
        (collections.defaultdict(list), "defaultdict"),
        (np.float64(1.0), "numpy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_foreign_objects_are_named(tmp_path, foreign, name):
    torch.save({"state_dict": TENSORS, "args": foreign}, tmp_path / "x.pth")
    message = refusal(lambda: read_tensors(tmp_path / "x.pth"), FileError)
    assert "Python objects" in message
    assert name in message


@pytest.mark.parametrize("content", [[1, 2], "words", 5, TENSORS["a"]])
def test_a_pickle_without_names(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    message = refusal(lambda: read_tensors(tmp_path / "x.pth"), FileError)
    assert type(content).__name__ in message


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch deprecates quantized tensors
def test_only_plain_tensors_are_accepted(tmp_path):
    for odd in (
        torch.eye(3).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
    ):
        torch.save({"fine": TENSORS["a"], "odd": odd}, tmp_path / "x.pth")
        assert "odd" in refusal(lambda: read_tensors(tmp_path / "x.pth"), FileError)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, I am a text\n" * 9,
        b"<!DOCTYPE html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        pickle.dumps({"a": 1}),
        b"PK\x03\x04 nothing else",
        b"\x93NUMPY",
    ],
    ids=["empty", "text", "html", "lfs", "pickle", "zip", "numpy"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_other_contents_under_our_suffixes(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    message = refusal(lambda: read_tensors(path), FileError)
    assert path.name in message
    assert "damaged, incomplete or of another kind" in message


@pytest.mark.parametrize(
    "header",
    [
        [1],
        {"__metadata__": {"a": 5}},
        {"x": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}},
    ],
)
def test_bad_safetensors_headers(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    refusal(lambda: read_tensors(tmp_path / "x.safetensors"), FileError)
    refusal(lambda: read_metadata(tmp_path / "x.safetensors"), FileError)


def _of_many(path, count, metadata):
    """A file of so many tensors without values."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = {"__metadata__": metadata} | {str(number): empty for number in range(count)}
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


@pytest.mark.parametrize("read", [read_tensors, read_safetensors, read_metadata])
def test_a_header_larger_than_any_models_is_not_taken_apart(tmp_path, read, monkeypatch):
    monkeypatch.setattr(tensor_file, "safe_open", lambda *_, **__: pytest.fail("it was opened"))
    path = _of_many(tmp_path / "x.safetensors", 1, {"a": "a" * (17 << 20)})
    assert "has a header of 17 MB, more than any model" in refusal(lambda: read(path), FileError)
    path = _of_many(tmp_path / "x.safetensors", 65_537, {})
    assert "has 65,537 tensors, more than any model" in refusal(lambda: read(path), FileError)


def test_a_state_may_have_more_tensors_than_a_model(tmp_path):
    path = _of_many(tmp_path / "x.safetensors", 10_001, {})
    assert len(read_safetensors(path)[0]) == 10_001
    assert "has 10,001 tensors" in refusal(lambda: read_tensors(path), FileError)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\0", "é" * 400])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_names_that_would_spoil_a_message(tmp_path, name, suffix):
    path = tmp_path / f"x{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(TENSORS | {name: torch.ones(1)}, path)
    assert "can't be printed" in refusal(lambda: read_tensors(path), FileError)


@pytest.mark.parametrize("read", [read_tensors, read_safetensors, read_metadata])
@pytest.mark.parametrize(
    "name", ["missing.safetensors", "folder.safetensors", "x" * 300 + ".safetensors", "a/b/c.safetensors"]
)
def test_paths_without_a_file(tmp_path, read, name):
    (tmp_path / "folder.safetensors").mkdir()
    assert name[:20] in refusal(lambda: read(tmp_path / name), FileError)[-600:]


@pytest.mark.parametrize("name", ["model.gguf", "model", "model.safetensors.part", ".safetensors"])
def test_other_suffixes_name_the_possible_ones(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    message = refusal(lambda: read_tensors(tmp_path / name), FileError)
    assert ".safetensors" in message
    assert ".pth" in message
    assert _same(read_safetensors(tmp_path / name)[0], TENSORS)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read and write everything")
def test_files_that_may_not_be_read_or_written(tmp_path):
    for name, read in (
        ("x.safetensors", read_tensors),
        ("y.safetensors", read_metadata),
        ("x.pth", read_tensors),
        ("config.json", read_json),
    ):
        (tmp_path / name).write_text("{}")
        (tmp_path / name).chmod(0)
        assert "Permission denied" in refusal(partial(read, tmp_path / name), FileError)
    tmp_path.chmod(0o500)
    try:
        assert "Permission denied" in refusal(
            lambda: write_tensors(tmp_path / "z.safetensors", {}, {}), FileError
        )
    finally:
        tmp_path.chmod(0o700)


# --- json and folders


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "[" * 100_000, "1" * 5000])
def test_text_that_is_no_json(tmp_path, text):
    assert "the thing" in refusal(lambda: parse_json(text, tmp_path / "x.json", "thing"), FileError).replace(
        "The", "the"
    )


def test_json_files(tmp_path):
    path = tmp_path / "config.json"
    assert read_json(path) is None
    assert read_json(path / "deeper.json") is None
    for content in (b"[]", b"5", b"null", b"\xff\xfe\x00", b"{"):
        path.write_bytes(content)
        assert "config.json" in refusal(lambda: read_json(path), FileError)
    for content in (b'{"a": "\xc3\xbc"}', b'\xef\xbb\xbf{"a": "\xc3\xbc"}'):  # as Windows' editor saves it
        path.write_bytes(content)
        assert read_json(path) == {"a": "ü"}


def _parts(folder: Path, weight_map: object) -> None:
    save_file({"a": TENSORS["a"]}, folder / "one.safetensors")
    save_file({"b": TENSORS["b"], "c": TENSORS["c"]}, folder / "two.safetensors")
    (folder / f"{DIFFUSERS_WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_parts(tmp_path):
    _parts(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    assert _same(read_parts(tmp_path), TENSORS)
    (tmp_path / "two.safetensors").unlink()
    assert "two.safetensors" in refusal(lambda: read_parts(tmp_path), FileError)


@pytest.mark.parametrize("weight_map", [None, [], "one.safetensors", {"a": None}, {"a": ["one.safetensors"]}])
def test_an_index_that_says_nothing(tmp_path, weight_map):
    _parts(tmp_path, weight_map)
    assert "index.json" in refusal(lambda: read_parts(tmp_path), FileError)
    (tmp_path / f"{DIFFUSERS_WEIGHTS}.index.json").write_text("no json")
    assert "index.json" in refusal(lambda: read_parts(tmp_path), FileError)


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "something.txt").touch()
    assert DIFFUSERS_WEIGHTS in refusal(lambda: read_parts(tmp_path), FileError)


# --- writing


def test_what_is_written_can_be_read(tmp_path):
    path = tmp_path / "x.safetensors"
    first, second = torch.arange(8.0).split(4)
    twice = {**TENSORS, "again": TENSORS["a"], "turned": TENSORS["a"].t(), "empty": torch.zeros(0, 3)}
    twice |= {"first": first, "second": second}
    write_tensors(path, twice, {"note": "ü"})
    tensors, metadata = read_tensors(path)
    assert _same(tensors, twice)
    assert metadata == {"note": "ü"}
    assert _files_in(tmp_path) == ["x.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="no umask on Windows")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o000])
@pytest.mark.parametrize("there", [False, True])
def test_permissions_are_those_of_any_new_file(tmp_path, mask, there):
    old = os.umask(mask)
    try:
        if there:
            write_tensors(tmp_path / "x.safetensors", {}, {})
        write_tensors(tmp_path / "x.safetensors", TENSORS, {})
        (tmp_path / "any").touch()
    finally:
        os.umask(old)
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


# with the suffix, both are close to the 255 bytes of a name
@pytest.mark.parametrize("stem", ["a" * 243, "猫" * 79])
def test_the_longest_names(tmp_path, stem):
    write_tensors(tmp_path / f"{stem}.safetensors", TENSORS, {})
    assert _files_in(tmp_path) == [f"{stem}.safetensors"]


def _broken_writing(monkeypatch, error: BaseException):
    def save(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(tensor_file, "save_file", save)


@pytest.mark.parametrize(
    "error, kind",
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
        (ZeroDivisionError(), ZeroDivisionError),
        (OSError(errno.ENOSPC, "No space left on device"), FileError),
        (FileError("As it is."), FileError),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_interrupted_writing_leaves_what_was_there(tmp_path, monkeypatch, error, kind, there):
    path = tmp_path / "x.safetensors"
    if there:
        write_tensors(path, TENSORS, {"old": "yes"})
    before = path.read_bytes() if there else None
    _broken_writing(monkeypatch, error)
    with pytest.raises(kind) as caught:
        write_tensors(path, {"new": torch.zeros(3)}, {})
    assert _files_in(tmp_path) == (["x.safetensors"] if there else [])
    assert before is None or path.read_bytes() == before
    if isinstance(error, FileError):
        assert caught.value is error
    elif kind is FileError:
        assert "No space left" in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_disk_that_fails_at_the_last_moment(tmp_path, monkeypatch):
    """Some disks report only on flushing that they are full; the name must not be taken before that."""
    (tmp_path / "x").write_text("old")

    def full(handle):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(FileError, match="quota"), atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "x").read_text() == "old"
    assert _files_in(tmp_path) == ["x"]


def test_atomic_path_is_seen_only_when_complete(tmp_path):
    path = tmp_path / "picture.png"
    with atomic_path(path) as temporary:
        assert temporary.suffix == "", "a list of states or models would show it"
        assert temporary.parent.parent == tmp_path
        assert temporary.parent.name.startswith(".")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert _files_in(tmp_path) == ["picture.png"]


def test_two_writers_of_one_name_do_not_collide(tmp_path):
    path = tmp_path / "x"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer one finishes last
    assert _files_in(tmp_path) == ["x"]


def test_places_where_no_file_can_be(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for place, words in (
        ("missing/x.safetensors", "no folder"),
        ("file/x.safetensors", "no folder"),
        ("folder", "it is a folder"),
        (".", "it is a folder"),
        ("y" * 300, "too long"),
    ):
        assert words in refusal(partial(write_tensors, tmp_path / place, TENSORS, {}), FileError)
    refusal(lambda: write_tensors("", TENSORS, {}), FileError)
    assert _files_in(tmp_path) == ["file", "folder"]


def test_a_header_whose_length_spells_pk(tmp_path):
    """19,280 bytes are “PK” in the file's first two, as at the start of a zip."""
    path, padding = tmp_path / "model.safetensors", 19_000
    for _ in range(2):
        save_file({"a.b": torch.ones(3)}, path, {"note": "x" * padding})
        padding += 19_280 - int.from_bytes(path.read_bytes()[:8], "little")
    assert path.read_bytes()[:2] == b"PK"
    assert read_tensors(path)[0]["a.b"].tolist() == [1, 1, 1]
