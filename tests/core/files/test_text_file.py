"""Text as people's editors save it."""

import codecs

import pytest
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.text_file import read_text

TEXT = '{"prompt": "猫 “跑” 🐈"}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_mark_is_read(encoding, tmp_path):
    (tmp_path / "a.json").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "a.json") == TEXT


@pytest.mark.parametrize(
    "mark, encoding", [(codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")]
)
def test_the_other_order_of_bytes(mark, encoding, tmp_path):
    (tmp_path / "a.json").write_bytes(mark + TEXT.encode(encoding))
    assert read_text(tmp_path / "a.json") == TEXT


def test_what_is_no_text(tmp_path):
    (tmp_path / "latin").write_bytes("Bär".encode("cp1252"))
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("latin", "Save it as UTF-8"),
        ("folder", "Is a directory"),
        ("gone", "No such file"),
        ("x" * 300, "too long"),
        ("nul\0", "null"),
    ):
        with pytest.raises(FileError, match=words):
            read_text(tmp_path / name)
