"""What `generate` writes is tried before the work, and held while it works."""

import errno
import os
from pathlib import Path

import pytest
from comfyui_sana_video.command_line import beginning, generate
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.sana_video_core.files.claims import claim
from support.video_files import names


@pytest.fixture
def sana(tmp_path, monkeypatch, capsys):
    """Runs `generate a` in an empty folder, up to the models: (--out, or None; what it said)."""
    monkeypatch.chdir(tmp_path)
    began = []

    def stop(options):
        began.append(options.out)
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "choose_models", stop)

    def run(*words):
        began.clear()
        status = main(["generate", "a", *map(str, words)])
        assert status == (130 if began else 1)
        return (began[0] if began else None), capsys.readouterr().err

    return run


def test_without_out_it_is_a_new_file(sana, tmp_path):
    assert sana()[0] == Path("video.mp4")
    (tmp_path / "video.mp4").touch()
    with claim("video-2.mp4"):
        assert sana()[0] == Path("video-3.mp4")
    assert names(tmp_path) == ["video.mp4"]


@pytest.mark.parametrize(
    "option, name",
    [("--out", "v.mp4"), ("--sheet", "s.png"), ("--preview", "p.png"), ("--state-out", "s.safetensors")],
)
def test_a_name_that_somebody_writes_is_refused_at_once(option, name, sana, tmp_path):
    with claim(name):
        began, said = sana(option, name)
    assert began is None
    assert f"{name}” is being written by another program now" in said
    assert sana(option, name)[1] == "Stopped.\n"
    assert names(tmp_path) == []


TARGETS = {"--out": ".mp4", "--sheet": ".png", "--preview": ".png", "--state-out": ".safetensors"}


@pytest.mark.parametrize("option", TARGETS)
@pytest.mark.parametrize(
    "stem, words",
    [
        ("x" * 300, "too long"),
        ("猫" * 100, "too long"),
        ("nul\0", "null"),
        ("none/x", "no folder"),
        ("file/x", "no folder"),
        ("folder", "it is a folder"),
    ],
    ids=str.isascii,
)
def test_what_cannot_be_written_is_refused_at_once(option, stem, words, sana, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / f"folder{TARGETS[option]}").mkdir()
    began, said = sana(option, stem + TARGETS[option])
    assert began is None
    assert words in said
    assert said.startswith("sana-video: “")
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("option", TARGETS)
@pytest.mark.parametrize("stem", ["猫" * 80, "x" * 240])
def test_a_long_name_is_no_obstacle(option, stem, sana, tmp_path):
    assert sana(option, stem + TARGETS[option])[1] == "Stopped.\n"


@pytest.mark.parametrize("option", TARGETS)
def test_a_folder_without_permission_is_refused_at_once(option, sana, tmp_path, monkeypatch):
    real = Path.mkdir

    def refuse(self, *arguments, **options):
        if self.name.startswith("."):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    began, said = sana(option, f"x{TARGETS[option]}")
    assert began is None
    assert "could not be written (Permission denied)" in said
    assert "choose a folder that you may write to" in said


@pytest.mark.parametrize(
    "target, source, name",
    [
        ("--out", "--video", "a.mp4"),
        ("--sheet", "--image", "a.png"),
        ("--preview", "--image", "a.png"),
        ("--state-out", "--model", "a.safetensors"),
    ],
)
def test_what_is_read_is_not_overwritten(target, source, name, sana, tmp_path):
    (tmp_path / name).write_text("older")
    (tmp_path / f"link-{name}").symlink_to(name)
    for other in (name, f"link-{name}"):
        began, said = sana(target, name, source, other)
        assert began is None
        assert f"“{name}” is what {source} reads, and would be lost. Give another name." in said
    assert (tmp_path / name).read_text() == "older"


def test_two_pictures_of_one_name_are_refused(sana, tmp_path):
    for other in ("./a.png", tmp_path / "a.png"):
        began, said = sana("--sheet", "a.png", "--preview", other)
        assert began is None
        assert "--sheet and --preview both name" in said
    assert names(tmp_path) == []


def test_a_state_is_continued_in_its_own_file(sana, tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").touch()
    began, said = sana("--state-in", "a.safetensors")
    assert began is None
    assert "cannot be read" in said
    monkeypatch.setattr(beginning, "load_state", lambda path: path)
    assert sana("--state-in", "a.safetensors", "--state-out", "a.safetensors")[1] == "Stopped.\n"


def test_a_conversion_keeps_its_source(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.safetensors").write_text("older")
    for source in ("a.safetensors", "."):
        assert main(["convert", source, "./a.safetensors"]) == 1
        assert "is the source, or in it, and would be lost" in capsys.readouterr().err
    assert Path("a.safetensors").read_text() == "older"


def test_a_prompt_that_is_not_unicode_is_refused(sana):
    began, said = sana("b\udcff")
    assert began is None
    assert "UTF-8" in said
