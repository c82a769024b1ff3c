"""Whether something stands at a path, where the system doesn't say so."""

import errno
import os

import pytest
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.places import is_file, is_folder


@pytest.mark.parametrize(
    "name, file, folder", [("a.txt", 1, 0), ("", 0, 1), ("none", 0, 0), ("a.txt/b", 0, 0)]
)
def test_what_is_there(name, file, folder, tmp_path):
    (tmp_path / "a.txt").touch()
    assert is_file(tmp_path / name) is bool(file)
    assert is_folder(tmp_path / name) is bool(folder)


@pytest.mark.parametrize("ask", [is_file, is_folder])
@pytest.mark.parametrize("name", ["x" * 300, "nul\0", "a/" + "é" * 200])
def test_names_that_no_system_takes(ask, name, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileError, match="cannot be opened"):
        ask(tmp_path / name)


@pytest.mark.parametrize("ask", [is_file, is_folder])
def test_a_folder_that_may_not_be_entered(ask, tmp_path, monkeypatch):
    """Root may enter every folder, so the refusal is made."""

    def refuse(path, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(FileError, match=r"Permission denied.*whether you may enter it"):
        ask(tmp_path / "a.txt")
