"""Two writers of one name, dead writers, and names that are tried before the work."""

import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import claims, hidden
from comfyui_sana_video.sana_video_core.files.atomic import atomic_path, move
from comfyui_sana_video.sana_video_core.files.claims import claim, first_free, numbered
from support.video_files import names

# hidden.py alone, because importing the pack takes seconds
OTHER = """
import pathlib, runpy, sys
hidden = runpy.run_path(sys.argv[1])
with hidden[sys.argv[2]](pathlib.Path(sys.argv[3])) as folder:
    (folder / "half").write_text("half")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_writer(path, kind="hidden_folder"):
    """(process, name of its folder) of a process that writes, until it is killed."""
    command = [sys.executable, "-c", OTHER, hidden.__file__, kind, path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["hidden_folder", "reserved"])
def test_what_a_killed_writer_left_goes_with_the_next_of_its_name(kind, tmp_path):
    path, ours = tmp_path / "猫 [1].safetensors", tmp_path / "a.safetensors"
    with another_writer(path, kind) as (process, folder):
        write(path)
        assert names(tmp_path) == sorted([folder, path.name]), "it still lives"
        process.kill()
        process.wait()
        write(ours)
        assert folder in names(tmp_path), "this is another name"
        write(path)
    assert names(tmp_path) == sorted([ours.name, path.name])


def write(path, text="new"):
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def test_numbered_names_are_one_name(tmp_path):
    with another_writer(tmp_path / "state_00002_.safetensors") as (process, _):
        process.kill()
        process.wait()
        write(tmp_path / "state_00003_.safetensors")
    assert names(tmp_path) == ["state_00003_.safetensors"]


def test_a_folder_that_was_never_locked_is_dead(tmp_path):
    path = tmp_path / "a.mp4"
    with hidden.hidden_folder(path) as folder:
        other = folder.with_name(folder.name[:-8] + "12345678")
    other.mkdir()  # killed between two system calls
    write(path)
    assert names(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("times, ends", [(3, True), (1000, False)])
def test_a_folder_that_somebody_takes_for_dead_is_made_again(times, ends, tmp_path, monkeypatch):
    """Another process looks between our making it and our lock."""
    path, left, lock = tmp_path / "a.mp4", [times], hidden._lock

    def taken(handle):
        if left[0]:
            left[0] -= 1
            for folder in tmp_path.glob(".*"):
                hidden.shutil.rmtree(folder)
        return lock(handle)

    monkeypatch.setattr(hidden, "_lock", taken)
    if ends:
        write(path)
    else:
        with pytest.raises(FileError, match="disappears"):
            write(path)
    assert names(tmp_path) == (["a.mp4"] if ends else [])


def test_where_there_are_no_locks_nothing_counts_as_dead(tmp_path, monkeypatch):
    def without(handle, operation):
        raise OSError(errno.ENOTSUP, "not supported")

    with another_writer(tmp_path / "a.mp4") as (process, folder):
        process.kill()
        process.wait()
    monkeypatch.setattr(hidden.fcntl, "flock", without)
    write(tmp_path / "a.mp4")
    assert names(tmp_path) == [folder, "a.mp4"]


# --- claims


def test_a_claimed_name_is_refused_to_others_and_free_afterwards(tmp_path):
    path = tmp_path / "a.mp4"
    with another_writer(path, "reserved") as (process, folder):
        with pytest.raises(FileError, match=r"a\.mp4” is being written by another program now\. Wait"):
            claim(path).__enter__()
        assert names(tmp_path) == [folder]
        process.kill()
        process.wait()
        with claim(path), pytest.raises(FileError, match="is being written"):
            claim(path).__enter__()
        with claim(path):
            write(path)
    assert names(tmp_path) == ["a.mp4"]


def test_the_first_free_name(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a-3.mp4").symlink_to("gone")
    with another_writer(tmp_path / "a-2.mp4", "reserved"), first_free(numbered(tmp_path / "a.mp4")) as path:
        assert path.name == "a-4.mp4"
        with first_free(numbered(tmp_path / "a.mp4")) as other:
            assert other.name == "a-5.mp4"
    assert names(tmp_path) == [*names(tmp_path)[:1], "a-3.mp4", "a.mp4"]


def test_numbers_fit_into_names_of_any_length():
    long = list(islice(numbered(Path("é" * 125 + ".mp4")), 11))
    assert long[1].name == "é" * 124 + "-2.mp4"
    assert long[10].name == "é" * 124 + "-11.mp4"
    assert all(len(os.fsencode(path.name)) <= 255 for path in long)


@pytest.mark.parametrize("name", ["x" * 251 + ".mp4", "é" * 125 + ".mp4", "🐈" * 62 + ".mp4", "a [*?].mp4"])
def test_every_legal_name_has_a_hidden_twin(name, tmp_path):
    with claim(tmp_path / name):
        write(tmp_path / name)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    "name, words",
    [
        ("x" * 256, "too long"),
        ("é" * 128, "too long"),
        ("nul\0", "null"),
        ("none/a", "no folder"),
        ("file/a", "no folder"),
        ("folder", "it is a folder"),
    ],
)
def test_names_that_cannot_be_are_refused_before_the_work(name, words, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=words):
        claim(tmp_path / name).__enter__()
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize(
    "number, advice", [(errno.EACCES, "that you may write to"), (errno.ENOSPC, "free some space")]
)
@pytest.mark.parametrize("call", ["mkdir", "write_bytes"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    call, number, advice, tmp_path, monkeypatch
):
    def refuse(self, *arguments, **options):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(FileError, match=f"a.mp4” could not be written.*{os.strerror(number)}.*{advice}"):
        claim(tmp_path / "a.mp4").__enter__()
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a folder of POSIX")
def test_another_users_file_in_a_folder_like_tmp_is_refused_before_the_work(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.touch()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with claim(path):
        pass  # an ordinary folder: who may write to it may replace what is there
    tmp_path.chmod(0o1777)
    with pytest.raises(FileError, match=r"the file there is another user's.*Give another name"):
        claim(path).__enter__()
    with first_free(numbered(path)) as free:
        assert free.name == "a-2.mp4"
    assert names(tmp_path) == ["a.mp4"]


def test_a_name_that_somebody_took_while_we_reserved_it_is_left(tmp_path, monkeypatch):
    held = claims._held

    @contextmanager
    def taken(path):
        with held(path) as ours:
            if path.name == "a.mp4":
                path.touch()
            yield ours

    monkeypatch.setattr(claims, "_held", taken)
    with first_free(numbered(tmp_path / "a.mp4")) as path:
        assert path.name == "a-2.mp4"


def test_an_error_of_the_work_stays_what_it_is(tmp_path):
    with pytest.raises(PermissionError), claim(tmp_path / "a.mp4"):
        raise PermissionError
    with pytest.raises(PermissionError), first_free([tmp_path / "a.mp4"]):
        raise PermissionError
    assert names(tmp_path) == []


def test_moving_to_another_disk_never_shows_half_a_file(tmp_path, monkeypatch):
    (tmp_path / "source").write_text("whole")
    real = Path.replace

    def replace(self, target):
        if self.name == "source":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        assert not (tmp_path / "target").exists()
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    move(tmp_path / "source", tmp_path / "target")
    assert names(tmp_path) == ["target"]
    assert (tmp_path / "target").read_text() == "whole"


def test_a_name_that_is_only_looked_at_by_others_is_tried_again(tmp_path, monkeypatch):
    """Another process that removes what a dead writer left holds the name for a moment."""
    path, waits = tmp_path / "a.mp4", []
    other = hidden.reserved(path)
    other.__enter__()

    def leave(seconds):
        waits.append(seconds)
        other.__exit__(None, None, None)

    monkeypatch.setattr(claims.time, "sleep", leave)
    with claim(path):
        assert waits == [claims.PAUSE]


@pytest.mark.parametrize("moment", ["before", "in the middle", "after the lock"])
def test_ctrl_c_while_a_writer_cleans_up_leaves_nothing(moment, tmp_path, monkeypatch):
    real = hidden.shutil.rmtree

    def stopped(folder, **options):
        monkeypatch.setattr(hidden.shutil, "rmtree", real)
        if moment == "in the middle":
            (folder / "new").unlink()
        if moment == "after the lock":
            (folder / "new").unlink()
            (folder / hidden.LOCK).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(hidden.shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt), hidden.hidden_folder(tmp_path / "a.mp4") as folder:
        (folder / "new").touch()
    assert names(tmp_path) == []
