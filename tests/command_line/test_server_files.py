"""Files from a server stay in the output folder."""

import pytest
from comfyui_sana_video.command_line.server import _place
from comfyui_sana_video.sana_video_core.errors import InputError


def test_a_server_cannot_write_outside_of_the_output_folder(tmp_path):
    assert _place(tmp_path, {"subfolder": "a", "filename": "b.mp4"}) == tmp_path / "a" / "b.mp4"
    for names in (
        {"subfolder": "..", "filename": "b"},
        {"subfolder": "", "filename": "/etc/b"},
        {"subfolder": "a/../..", "filename": "b"},
    ):
        with pytest.raises(InputError, match="outside of the output folder"):
            _place(tmp_path, names)
