"""Places that the system refuses, in every option of every command: a sentence, and nothing is left."""

import errno
import os
from pathlib import Path

import folder_paths
import pytest
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.standalone.engine.executor import Executor
from conftest import ROOT
from support.video_files import names

WORKFLOW = ROOT / "workflows" / "00_without_downloads.json"
COMMANDS = {
    "base": (["run", WORKFLOW, "--base"], ""),
    "input": (["run", WORKFLOW, "--input"], ""),
    "output": (["run", WORKFLOW, "--output"], ""),
    "sheet": (["run", WORKFLOW, "--sheet"], ".png"),
    "preview": (["run", WORKFLOW, "--preview"], ".png"),
    "server": (["run", WORKFLOW, "--server", "http://127.0.0.1:9", "--output"], ""),
    "studio": (["studio", "--no-browser", "--base"], ""),
    "page": (["studio", "--no-browser", "--front-end-root"], ""),
    "convert": (["convert", "a.pth"], ".safetensors"),
    "info": (["info"], ".safetensors"),
    "video": (["info"], ".mp4"),
    "make-demo": (["make-demo"], ""),
    "generate": (["generate", "a", "--text-encoder", "t", "--vae", "v", "--model"], ".safetensors"),
}
PLACES = {
    "a long name": "x" * 300,
    "a long name of many bytes": "猫" * 100,
    "a null byte": "a\0",
    "a file for a folder": "file/a",
    "a circle of links": "loop",
    "no entry": "denied/a",
}


@pytest.fixture
def sana(tmp_path, monkeypatch, capsys):
    """Runs a command in a folder with a file, a circle of links, and a folder that may not be entered.

    Root may enter every folder, so that refusal is made.
    """

    def stat(path, *arguments, **options):
        if isinstance(path, (str, os.PathLike)) and "denied/" in os.fspath(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **options)

    def began(*_):
        raise AssertionError("the work began")

    real = os.stat
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(Executor, "_work", began)
    (tmp_path / "file").touch()

    def run(*words):
        status = main([str(word) for word in words])
        return status, capsys.readouterr().err

    yield run
    folder_paths.set_base_directory(".")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_place_is_refused_in_words(command, place, sana, tmp_path):
    words, suffix = COMMANDS[command]
    path = PLACES[place] + suffix
    (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
    before = names(tmp_path)
    status, said = sana(
        *words, path, *(["--text-encoder", "t", "--vae", "v"] if command == "generate" else [])
    )
    assert status == 1, said
    assert said.startswith("sana-video: ")
    assert names(tmp_path) == before


def test_a_folder_that_is_a_file(sana):
    assert "is a file" in sana("run", WORKFLOW, "--base", "file")[1]
    assert "no folder “file”" in sana("run", WORKFLOW, "--input", "file")[1]
    assert "could not be written (File exists)" in sana("run", WORKFLOW, "--output", "file")[1]


def test_an_output_folder_that_may_not_be_written(sana, tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        if self.name.startswith("."):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return mkdir(self, *arguments, **options)

    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", refuse)
    said = sana("run", WORKFLOW, "--output", "out")[1]
    assert "“out” could not be written (Permission denied)" in said
