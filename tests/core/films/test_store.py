"""The store: what is written is read, whoever comes first; what is damaged is made again."""

import dataclasses
import errno
import hashlib
import logging
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.sana_video_core.config import FAMILIES
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import hidden
from comfyui_sana_video.sana_video_core.files.tensor_file import read_metadata
from comfyui_sana_video.sana_video_core.films import contents, entry, holds, store
from comfyui_sana_video.sana_video_core.films.contents import content_of, transformer_content
from comfyui_sana_video.sana_video_core.films.holds import alone, held
from comfyui_sana_video.sana_video_core.films.layout import KINDS, entry_path
from comfyui_sana_video.sana_video_core.films.store import DAY, Store
from conftest import ROOT
from safetensors.torch import load_file, save_file
from support.pack import same

KEY, OTHER = "ab" * 32, "cd" * 32
ABOUT = {"prompt": "a fox, “Füchse” \ud800", "seed": 7, "shift": 8.0, "parts": [1, None]}


@pytest.fixture
def films(tmp_path):
    return Store(tmp_path / "new" / "store")


def latents(seed=0):
    return {"latents": torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(seed))}


def words(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(kind, films, caplog):
    assert films.read(kind, KEY) is None
    tensors = {
        "a": latents()["latents"].bfloat16(),
        "mp4": torch.arange(9, dtype=torch.uint8),
        "n": torch.ones(()),
    }
    written = films.write(kind, KEY, tensors, ABOUT | {"parts": (1, None)})
    read = films.read(kind, KEY)
    assert read.about == written.about == ABOUT
    assert read.content == written.content
    assert read.tensors.keys() == tensors.keys()
    assert all(same(read.tensors[name], tensors[name]) for name in tensors)
    assert films.read(kind, OTHER) is None
    assert set(files(films.folder)) == {f"{kind}/ab/{KEY}.safetensors", "store.json"}
    assert not words(caplog)


def test_an_entry_may_hold_only_words(films):
    films.write("texts", KEY, {}, {"embedding": OTHER})
    read = films.read("texts", KEY)
    assert (dict(read.tensors), read.about) == ({}, {"embedding": OTHER})


def test_tensors_that_share_memory_are_kept_apart(films):
    whole = torch.arange(12.0).reshape(3, 4)
    parts = {"whole": whole, "part": whole[:, 1:3], "again": whole, "turned": whole.T}
    films.write("memories", KEY, parts, {})
    read = films.read("memories", KEY)
    assert all(same(read.tensors[name], parts[name]) for name in parts)


def test_what_was_read_outlives_its_file(films):
    films.write("chunks", KEY, latents(), {})
    read = films.read("chunks", KEY)
    path = entry_path(films.folder, "chunks", KEY)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert same(read.tensors["latents"], latents()["latents"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_writer_wins_and_a_broken_law_is_told(kind, films, caplog):
    first = films.write(kind, KEY, latents(0), {"first": True})
    assert films.write(kind, KEY, latents(0), {"first": False}).about == {"first": True}
    assert not words(caplog)
    stored = films.write(kind, KEY, latents(1), {"first": False})
    assert stored.content == first.content
    assert same(stored.tensors["latents"], latents(0)["latents"])
    assert same(films.read(kind, KEY).tensors["latents"], latents(0)["latents"])
    lawful = kind in ("chunks", "embeddings", "memories")
    assert ["law is broken" in word for word in words(caplog)] == [True] * lawful


@pytest.mark.parametrize("key", ["", "x", "AB" * 32, "ab" * 31, f"../{'a' * 61}", "ab" * 33])
def test_only_keys_are_names(key, films):
    with pytest.raises(ValueError, match="no entries"):
        films.read("chunks", key)
    with pytest.raises(ValueError, match="no entries"):
        films.read("nothing", KEY)


# --- damage


def _cut(path, _):
    path.write_bytes(path.read_bytes()[:-1])


def _flip_last(path, _):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _other_tensor(path, _):
    save_file({"x": torch.ones(2)}, path, read_metadata(path))


def _change(**values):
    def change(path, _):
        save_file(load_file(path), path, read_metadata(path) | values)

    return change


def _sealed(**values):
    """As a forger, or a later version, would write it: the seal is right."""

    def change(path, _):
        metadata = read_metadata(path) | values
        metadata["seal"] = entry.json_digest({name: metadata[name] for name in entry.SEALED})
        save_file(load_file(path), path, metadata)

    return change


def _not_a_number(path, films):
    nan = entry.offered({"latents": torch.tensor([1.0, float("nan")])}, {})
    entry.save_entry(path, "chunks", KEY, nan)


def _foreign(path, films):
    films.write("chunks", OTHER, latents(1), {})
    path.write_bytes(entry_path(films.folder, "chunks", OTHER).read_bytes())


def _folder(path, _):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "cut short": (_cut, "(?i)incomplete|covered"),
    "one bit": (_flip_last, "bytes aren't"),
    "empty": (lambda path, _: path.write_bytes(b""), "deserializ|header"),
    "no safetensors": (lambda path, _: path.write_bytes(b"hello" * 100), "deserializ|header"),
    "a folder": (_folder, "no file"),
    "another tensor": (
        lambda path, _: save_file({"x": torch.ones(2)}, path, read_metadata(path)),
        "bytes aren't",
    ),
    "without metadata": (lambda path, _: save_file(load_file(path), path), "as it was written"),
    "other words": (_change(about='{"x": 1}'), "as it was written"),
    "a newer format": (_sealed(sana_video_store="2"), "format '2'"),
    "words of no kind": (_sealed(about="[]"), "what it is"),
    "words that are no JSON": (_sealed(about="{"), "Expecting"),
    "not a number": (_not_a_number, "no numbers"),
    "under another's key": (_foreign, "another entry"),
    "of another kind": (_sealed(kind="memories"), "another entry"),
}


@pytest.mark.parametrize("change, reason", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_noticed_put_aside_and_made_again(change, reason, films, caplog):
    path = entry_path(films.folder, "chunks", KEY)
    rounds = 1 if change is _folder else 2
    for _ in range(rounds):  # evidence of the second time isn't kept
        films.write("chunks", KEY, latents(), {})
        change(path, films)
        assert films.read("chunks", KEY) is None
        assert not path.exists()
    assert len(words(caplog)) == rounds
    assert words(caplog)[0].startswith(f"“{path}” is damaged (")
    assert re.search(reason, words(caplog)[0])
    assert [file.name for file in path.parent.glob(f"{KEY}*")] == [f"{KEY}.safetensors.damaged"]
    films.write("chunks", KEY, latents(), {})
    assert same(films.read("chunks", KEY).tensors["latents"], latents()["latents"])


def test_writing_over_a_damaged_entry_mends_it(films, caplog):
    path = entry_path(films.folder, "chunks", KEY)
    films.write("chunks", KEY, latents(0), {})
    _flip_last(path, films)
    films.write("chunks", KEY, latents(1), {})
    assert same(films.read("chunks", KEY).tensors["latents"], latents(1)["latents"])
    assert len(words(caplog)) == 1


def test_an_entry_that_was_made_again_meanwhile_is_not_put_aside(films, caplog, monkeypatch):
    """Two readers see the damage; the slower one must not take the faster one's new entry away."""
    path = entry_path(films.folder, "chunks", KEY)
    films.write("chunks", KEY, latents(), {})
    _flip_last(path, films)
    read = store.read_entry

    def slow(*place):
        try:
            return read(*place)
        finally:
            monkeypatch.setattr(store, "read_entry", read)
            films.write("chunks", KEY, latents(), {})

    monkeypatch.setattr(store, "read_entry", slow)
    assert films.read("chunks", KEY) is None
    assert films.read("chunks", KEY) is not None
    assert len(words(caplog)) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no modes")
def test_what_may_not_be_read_is_not_damaged(films, caplog, monkeypatch):
    films.write("chunks", KEY, latents(), {})
    path = entry_path(films.folder, "chunks", KEY)
    opened = Path.open

    def refused(self, *how, **options):
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, *how, **options)

    monkeypatch.setattr(Path, "open", refused)  # root may read everything
    assert films.read("chunks", KEY) is None
    assert "Permission denied" in words(caplog)[0]
    assert path.exists()
    with pytest.raises(FileError, match="has its name"):
        films.write("chunks", KEY, latents(), {})
    assert files(path.parent) == [path.name]


# --- what the disk refuses


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(call, films, monkeypatch):
    films.write("chunks", OTHER, latents(), {})
    before = files(films.folder)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    if call == "link":
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(FileError, match=r"could not be written \(No space left on device\)"):
        films.write("chunks", KEY, latents(), {})
    monkeypatch.undo()
    assert files(films.folder) == before
    assert not list(films.folder.glob(".*"))


def test_a_store_cannot_be_where_a_file_is(tmp_path):
    (tmp_path / "store").write_text("mine")
    with pytest.raises(FileError):
        Store(tmp_path / "store").write("chunks", KEY, latents(), {})
    with pytest.raises(FileError), Store(tmp_path / "store").held():
        pass
    assert Store(tmp_path / "store").read("chunks", KEY) is None
    assert files(tmp_path) == ["store"]


def test_numbers_that_are_none_are_refused_not_kept(films):
    with pytest.raises(FileError, match="no numbers"):
        films.write("chunks", KEY, {"latents": torch.tensor([float("inf")])}, {})
    assert not films.folder.exists()


def test_a_disk_without_links(films, monkeypatch, caplog):
    def without(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", without)
    films.write("chunks", KEY, latents(0), {})
    films.write("chunks", KEY, latents(0), {})
    assert same(films.read("chunks", KEY).tensors["latents"], latents(0)["latents"])
    new = entry.offered(latents(1), {})
    assert films._placed(entry_path(films.folder, "chunks", KEY), "chunks", KEY, new) is False
    assert not words(caplog)


@pytest.mark.parametrize("version", ["{}", "no", '{"sana_video_store": 2}'])
def test_a_store_of_another_version_is_left_alone(version, films):
    films.write("chunks", KEY, latents(), {})
    (films.folder / "store.json").write_text(version)
    with pytest.raises(FileError, match="version"):
        films.write("chunks", OTHER, latents(), {})
    with pytest.raises(FileError, match="version"), films.held():
        pass


# --- use times


def test_reading_says_at_most_once_a_day_that_it_was_used(films):
    films.write("chunks", KEY, latents(), {})
    path = entry_path(films.folder, "chunks", KEY)
    now = time.time()
    for age, touched in ((DAY / 2, False), (2 * DAY, True), (-2 * DAY, True)):  # the last: a wrong clock
        os.utime(path, (now - age, now - age))
        films.read("chunks", KEY)
        assert (abs(path.stat().st_mtime - now) < 60) is touched


# --- other machines


def test_chunks_of_other_machines_are_found(films):
    assert films.anywhere(KEY) == ()
    for key in (OTHER, KEY, OTHER):
        films.add_anywhere(KEY, key)
    assert films.anywhere(KEY) == (KEY, OTHER)
    assert films.anywhere(OTHER) == ()


# --- several processes


@contextmanager
def processes(*commands):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        for process in running:
            assert process.stdout.readline().strip() == "ready"
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
def test_of_two_processes_each_gets_what_is_stored(films, tmp_path):
    keys = [f"{i:064x}" for i in range(40)]

    def got(mine):
        written = (films.write("segments", key, {"a": torch.full((5,), mine)}, {}) for key in keys)
        return [entry.tensors["a"][0].item() for entry in written]

    child = os.fork()
    if not child:
        try:
            (tmp_path / "theirs").write_text(str(got(1.0)))
        finally:
            os._exit(0)
    ours = got(2.0)
    os.waitpid(child, 0)
    assert (tmp_path / "theirs").read_text() == str(ours)
    assert ours == [films.read("segments", key).tensors["a"][0].item() for key in keys]
    assert len(files(films.folder)) == len(keys) + 1


def test_what_a_killed_writer_left_goes_with_the_next_entry(films):
    films.write("chunks", KEY, latents(), {})
    left = films.folder / f"{hidden._beginning(films.folder / 'new').name}.12345678"
    left.mkdir()
    (left / "lock").touch()
    (left / "new").write_bytes(b"half")
    films.write("chunks", OTHER, latents(), {})
    assert not left.exists()


# --- holds

HOLDER = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
import conftest
from comfyui_sana_video.sana_video_core.films import holds
with getattr(holds, sys.argv[2])(pathlib.Path(sys.argv[3])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(holds, "PATIENCE", 0.1)


def test_films_hold_a_store_together_and_pruning_alone(films, impatient):
    with held(films.folder), held(films.folder), pytest.raises(FileError, match="in use"):  # noqa: SIM117
        with alone(films.folder):
            pass
    with alone(films.folder):
        with pytest.raises(FileError, match="in use"), alone(films.folder):
            pass
        with pytest.raises(FileError, match="being pruned"), held(films.folder, wait=0.1):
            pass
    with alone(films.folder), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError  # not swallowed
    with held(films.folder, wait=0.0):
        assert len(list((films.folder / "holders").iterdir())) == 1
    assert not list((films.folder / "holders").iterdir())


def test_a_film_waits_for_pruning_to_end(films, monkeypatch):
    with held(films.folder):
        pass
    pruning = alone(films.folder)
    pruning.__enter__()
    ended = []

    def sleep(seconds):
        ended.append(pruning.__exit__(None, None, None))

    monkeypatch.setattr(holds.time, "sleep", sleep)
    with held(films.folder):
        assert len(ended) == 1


@pytest.mark.parametrize("kind", ["held", "alone"])
def test_other_processes_count_until_they_are_dead(kind, films, impatient):
    with held(films.folder):
        pass
    other = {"held": alone, "alone": lambda folder: held(folder, wait=0.1)}[kind]
    with processes((HOLDER, ROOT / "tests", kind, films.folder)) as (process,):
        with pytest.raises(FileError), other(films.folder):
            pass
        process.kill()
        process.wait()
        with other(films.folder):
            pass
    assert not list((films.folder / "holders").iterdir())


def test_only_a_store_is_pruned(tmp_path):
    with pytest.raises(FileError, match="isn't a store"), alone(tmp_path):
        pass
    assert files(tmp_path) == []


# --- contents of files


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights" * 1000)
    os.utime(path, (1_000_000, 1_000_000))
    return path


def hashed(monkeypatch):
    calls, real = [], contents._hashed
    monkeypatch.setattr(
        contents, "_hashed", lambda path, progress: (calls.append(path.name), real(path, progress))[1]
    )
    return calls


def test_a_file_is_hashed_once(films, model, monkeypatch):
    calls = hashed(monkeypatch)
    expected = hashlib.sha256(model.read_bytes()).hexdigest()
    assert [content_of(model, films), content_of(str(model), films)] == [expected] * 2
    assert calls == [model.name]
    model.write_bytes(b"WEIGHTS" * 1000)  # the same size, another time
    os.utime(model, (2_000_000, 2_000_000))
    assert content_of(model, films) != expected
    assert calls == [model.name] * 2


def test_a_file_that_may_still_change_is_not_remembered(films, model, monkeypatch):
    calls = hashed(monkeypatch)
    os.utime(model)
    content_of(model, films)
    content_of(model, films)
    assert len(calls) == 2


def test_a_file_that_changes_meanwhile_is_refused(films, model):
    def change(done, total):
        os.utime(model, (3_000_000, 3_000_000))

    with pytest.raises(FileError, match="changed while"):
        content_of(model, films, change)


def test_progress_counts_bytes_and_may_stop(films, model, monkeypatch):
    monkeypatch.setattr(contents, "BUFFER", 4000)
    seen = []
    content_of(model, films, lambda done, total: seen.append((done, total)))
    assert seen == [(4000, 7000), (7000, 7000)]
    content_of(model, films, lambda done, total: seen.append((done, total)))
    assert seen[2:] == [(7000, 7000)]


def test_a_folder_is_its_weights_and_configs(films, tmp_path):
    def folder(name, **changed):
        place = tmp_path / name
        contents_ = {
            "config.json": "{}",
            "part-1.safetensors": "1",
            "part-2.safetensors": "2",
            "README.md": name,
        }
        for file, text in (contents_ | changed).items():
            (place / "transformer").mkdir(parents=True, exist_ok=True)
            if text is not None:
                (place / "transformer" / file).write_text(text)
        return content_of(place, films)

    base = folder("a")
    assert folder("b") == base, "neither its name nor what is said about it counts"
    changes = [{"config.json": "{ }"}, {"part-2.safetensors": None}, {"part-2.safetensors": "3"}]
    changes += [{"part-1.safetensors": "2", "part-2.safetensors": "1"}, {"part-3.safetensors": "3"}]
    others = {folder(f"c{i}", **change) for i, change in enumerate(changes)}
    assert len({base, *others}) == 1 + len(changes)


def test_what_has_no_content_is_a_sentence(films, tmp_path):
    with pytest.raises(FileError, match="cannot be opened"):
        content_of(tmp_path / "none.safetensors", films)
    with pytest.raises(FileError, match="no weights"):
        content_of(tmp_path, films)


def test_a_content_that_cannot_be_kept_is_still_a_content(tmp_path, model, caplog):
    (tmp_path / "store").write_text("a file")
    assert content_of(model, Store(tmp_path / "store")) == content_of(model, Store(tmp_path / "other"))
    assert len(words(caplog)) == 1


def test_a_transformer_is_its_file_and_its_sizes(films, tmp_path):
    """Other heads on the same weights are another model; the rest of a pipeline is not."""
    config = FAMILIES["demo"].config
    pipeline = tmp_path / "pipeline"
    (pipeline / "transformer").mkdir(parents=True)
    (pipeline / "transformer" / "model.safetensors").write_bytes(b"weights")
    content = transformer_content(pipeline, config, films)
    (pipeline / "vae.safetensors").write_bytes(b"a decoder")
    assert transformer_content(pipeline, config, films) == content
    assert transformer_content(pipeline / "transformer", config, films) == content
    other = dataclasses.replace(config, head_dim=config.head_dim // 2)
    assert transformer_content(pipeline, other, films) != content
    (pipeline / "transformer" / "model.safetensors").write_bytes(b"another")
    assert transformer_content(pipeline, config, films) != content
