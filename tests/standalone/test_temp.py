"""ComfyUI's temp folder, as a command has it: its own, and gone when it ends."""

from pathlib import Path

import folder_paths
import pytest
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files import hidden
from comfyui_sana_video.standalone.temp import own_temp
from support.artist import folders


@pytest.fixture
def temp(tmp_path):
    with folders(tmp_path):
        yield tmp_path / "temp"


def put(name):
    path = Path(folder_paths.get_temp_directory(), name)
    path.touch()
    return path


def test_it_is_gone_afterwards_whatever_happens(temp):
    with pytest.raises(KeyboardInterrupt), own_temp():  # noqa: PT012
        assert put("a.png").parent.parent == temp
        raise KeyboardInterrupt
    assert not temp.exists()
    assert folder_paths.get_temp_directory() == str(temp)


def test_what_others_have_there_stays(temp):
    temp.mkdir()
    comfyui = put("ComfyUI_temp_00001_.png")
    with own_temp():
        ours = put("a.png")
        folder_paths.set_temp_directory(str(temp))  # as another process starts
        with own_temp():
            put("b.png")
        assert ours.exists()
    assert list(temp.iterdir()) == [comfyui]


def test_what_a_killed_command_left_is_removed(temp):
    with own_temp():
        left = put("a.png").parent
    left.mkdir(parents=True)
    (left / hidden.LOCK).touch()
    (left / "a.png").touch()
    with own_temp():
        assert list(temp.iterdir()) == [Path(folder_paths.get_temp_directory())]


def test_a_file_in_its_place_is_a_sentence(temp):
    temp.touch()
    with pytest.raises(FileError, match="temp” could not be written"):
        own_temp().__enter__()
