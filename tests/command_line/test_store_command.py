"""`sana-video store`: what a person sees, is asked, and is told."""

import os
import subprocess
import sys
import time

import pytest
import torch
from comfyui_sana_video.command_line import store as command
from comfyui_sana_video.command_line.cli import main
from comfyui_sana_video.sana_video_core.films.layout import IN_OUTPUT, entry_path
from comfyui_sana_video.sana_video_core.films.manifest import Manifest, manifest_path
from comfyui_sana_video.sana_video_core.films.store import DAY, Store
from comfyui_sana_video.sana_video_core.films.survey import survey
from conftest import ROOT

KEYS = [f"{number:02x}" * 32 for number in range(4)]


@pytest.fixture
def sana(tmp_path, monkeypatch, capsys):
    """Runs `sana-video store` in an empty folder; returns (status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        status = main(["store", *map(str, words)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def films(tmp_path):
    """A store with a chunk of no film and a text, nine days old, and two of a film."""
    films = Store(tmp_path / "output" / IN_OUTPUT)
    films.write("texts", KEYS[0], {}, {})
    for key in KEYS[1:]:
        films.write("chunks", key, {"latents": torch.zeros(1000)}, {})
    for path in films.folder.rglob("*.safetensors"):
        os.utime(path, (time.time() - 9.5 * DAY,) * 2)
    (tmp_path / "fox.mp4").write_bytes(b"film")
    keep(films, tmp_path / "fox.mp4", KEYS[2:])
    return films


def keep(films, path, keys, **more):
    manifest = Manifest(path=str(path), script="a fox", keys={"chunks": tuple(keys)}, made=0.0, **more)
    films.keep_film(manifest)
    return manifest_path(films.folder, str(path))


def left(films):
    return sorted(item.key for item in survey(films.folder).items)


@pytest.mark.parametrize("place", [".", "output", "output/sana_films/store", None])
def test_it_shows_kinds_sizes_ages_and_films(place, films, sana, tmp_path):
    keep(films, tmp_path / "lake.mp4", KEYS[1:2])
    keep(films, tmp_path / "sea.mp4", KEYS[3:], finished=False)
    os.utime(entry_path(films.folder, "chunks", KEYS[3]))
    damaged = entry_path(films.folder, "chunks", KEYS[1])
    damaged.rename(damaged.with_name(f"{damaged.name}.damaged"))
    status, out, err = sana(*[place] * (place is not None))
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{films.folder}: ")
    assert lines[0].endswith(" in 3 entries")
    assert [line.split()[:2] for line in lines[1:4]] == [["chunks", "2"], ["texts", "1"], ["damaged", "1"]]
    assert lines[1].endswith("last used today to 9 days ago")
    assert f"{tmp_path / 'fox.mp4'}: " in out
    assert f"{tmp_path / 'lake.mp4'} (gone): 0.0 KB in 0 entries" in out
    assert f"{tmp_path / 'sea.mp4'} (unfinished): " in out
    assert lines[-1].startswith("in no film: ")
    assert lines[-1].endswith(" in 1 entry")


def test_pruning_takes_what_no_film_lists(films, sana, tmp_path):
    status, out, _ = sana("--prune", "8d")
    assert status == 0
    assert left(films) == KEYS[2:]
    assert f"{tmp_path / 'fox.mp4'} lists some of what would go." in out
    assert " in 2 entries that would have gone, too; these stay. --yes takes them." in out


@pytest.mark.parametrize(
    "answer, takes", [("y", True), (" YES ", True), ("", False), ("n", False), (EOFError, False)]
)
def test_a_person_is_asked(answer, takes, films, sana, monkeypatch):
    def answered(question):
        assert "2 entries" in question
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answered)
    assert sana("--prune", "8d")[0] == 0
    assert left(films) == ([] if takes else KEYS[2:])


@pytest.mark.parametrize(
    "limits, rest",
    [
        (["10d"], KEYS),
        (["9d"], []),
        (["220h"], []),
        (["1.5w"], KEYS),
        (["1GB"], KEYS),
        (["13KB"], KEYS[:1] + KEYS[2:]),
        (["0 MB"], KEYS[:1]),
        (["0mb", "1D"], []),
    ],
)
def test_limits_are_ages_and_sizes(limits, rest, films, sana):
    status, out, _ = sana(*[word for limit in limits for word in ("--prune", limit)], "--yes")
    assert status == 0
    assert left(films) == rest
    assert f"in {len(KEYS) - len(rest)} entr" in out.splitlines()[0]


@pytest.mark.parametrize(
    "limit", ["", "30", "d", "-3d", "3 months", "20G", "1e3MB", "½d", "9999999999d", "nand"]
)
def test_other_limits_are_refused(limit, films, sana, capsys):
    with pytest.raises(SystemExit) as stopped:
        sana(f"--prune={limit}")
    assert stopped.value.code == 2
    assert f"“{limit}” is neither an age nor a size; write for example" in capsys.readouterr().err
    assert left(films) == KEYS


def test_two_ages_are_refused(films, sana):
    status, _, err = sana("--prune", "1d", "--prune", "2d", "--yes")
    assert status == 1
    assert "two ages or two sizes" in err
    assert left(films) == KEYS


@pytest.mark.parametrize("words", [[], ["--prune", "0d", "--yes"]])
@pytest.mark.parametrize("place", [".", "nowhere", "file"])
def test_what_is_no_store_is_a_sentence(words, place, sana, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, out, err = sana(place, *words)
    assert (status, out) == (1, "")
    assert err.startswith("sana-video: “")
    assert "isn't a store of films" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_manifest_that_cannot_be_read_is_told_once(films, sana, tmp_path):
    keep(films, tmp_path / "fox.mp4", KEYS[2:]).write_text("{")
    status, out, err = sana("--prune", "1d")
    assert status == 0
    assert err.count("can't be read") == 1
    assert left(films) == KEYS
    assert "so any entry may be of these films" in out


def test_it_answers_without_torch(films):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest; sys.argv[1:] = sys.argv[2:];"
        "from comfyui_sana_video.command_line.cli import main; status = main();"
        "sys.exit(status or any(name in sys.modules for name in ('torch', 'numpy', 'transformers', 'av')))"
    )
    words = [sys.executable, "-c", code, ROOT / "tests", "store", films.folder, "--prune", "8d", "--yes"]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert left(films) == []
