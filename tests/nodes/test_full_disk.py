"""A full disk: the error says so, no half-written file has a final name, and the next run works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_sana_video.sana_video_core.files.video_reader import read_frames
from comfyui_sana_video.sana_video_core.streaming.state_file import load_state

pytest.importorskip("resource", reason="only Unix limits file sizes")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    code = "import conftest, full_disk; full_disk.start()"
    places = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", code, base],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": places},
    )
    assert done.returncode == 0, done.stderr
    return {"base": base, "log": done.stderr, **json.loads(done.stdout)}


def test_a_state_that_does_not_fit_leaves_nothing(outcomes):
    said = outcomes["save full"]["refused"]
    assert all(
        word in said for word in ("state_00001_.safetensors", "could not be written", "free some space")
    )
    assert outcomes["save full"]["files"] == []


def test_a_film_that_does_not_fit_keeps_its_beginning_under_another_name(outcomes):
    said = outcomes["film full"]["refused"]
    assert all(word in said for word in ("frames", "kept", "Free some space"))
    assert outcomes["film full"]["files"] == ["output/video/interrupted_00001_.mp4"]
    frames = read_frames(outcomes["base"] / "output/video/interrupted_00001_.mp4", fps=None)
    assert 1 <= frames.shape[2] < 81
    assert f"Only {frames.shape[2]} of" in said or "failed after" in said
    assert "interrupted_00001_.mp4" in outcomes["log"]


def test_the_next_run_works(outcomes):
    base = outcomes["base"]
    assert load_state(base / "output/sana_states/state_00001_.safetensors").frames == 81
    assert read_frames(outcomes["film again"]["file"], fps=None).shape[2] == 81
    assert len(outcomes["film again"]["files"]) == 3
