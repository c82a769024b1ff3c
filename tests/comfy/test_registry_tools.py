"""comfy-test and comfy-import-guard on the registry's archive; CONTRIBUTING.md answers what they find."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from support.archive import NAME, unpack
from support.comfyui import COMFYUI, needs_comfyui

pytestmark = needs_comfyui

# checks that never fail there: their authors leave the verdict to a person
ANSWERED = {"weights", "hardcoded-precision"}


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """A custom_nodes folder with the unpacked archive in it."""
    folder = tmp_path_factory.mktemp("archive") / "custom_nodes"
    unpack(folder)
    return folder


def test_comfy_test_finds_nothing_wrong(packs):
    pytest.importorskip("comfy_test")
    command = [sys.executable, "-m", "comfy_test", "lint", "--json", str(packs / NAME)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["checks"] == ["syntax", "javascript"]


@pytest.mark.parametrize("level", ["hazards", "warnings"])
def test_comfy_test_warns_about_nothing_new(packs, level):
    checks = pytest.importorskip(f"comfy_test.orchestration.levels.{level}")
    said = []
    checks.run(SimpleNamespace(node_dir=packs / NAME, log=said.append))
    assert "check:" in said[-1]
    warned = {line.split()[1] for line in said if line.lstrip().startswith(f"[{level}]")}
    assert warned <= ANSWERED, "\n".join(said)


@pytest.fixture
def guard(packs, tmp_path):
    """comfy-import-guard on our ComfyUI; it reads a git clone, which would come from the network."""
    pytest.importorskip("comfy_import_guard")
    clone = tmp_path / "ComfyUI"
    shutil.copytree(COMFYUI / "comfy", clone / "comfy", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(clone), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "ComfyUI"]):
        subprocess.run([*git, *words], check=True)

    def check(custom_nodes):
        options = ["--offline", "--strict", "--json", "--cache-dir", str(tmp_path), "--target", "HEAD"]
        command = [
            sys.executable,
            "-m",
            "comfy_import_guard.cli",
            "check",
            "--comfy-dir",
            str(custom_nodes),
            *options,
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)["packs"]

    return check


def test_every_name_of_comfyui_that_we_use_is_there(guard, packs):
    status, reports = guard(packs)
    assert [report["verdict"] for report in reports] == ["SAFE"], reports
    assert status == 0
    assert reports[0]["references"] > 30


def test_a_missing_name_is_noticed(guard, tmp_path):
    pack = tmp_path / "custom_nodes" / "broken"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text("from comfy.ops import gone\n")
    status, reports = guard(pack.parent)
    assert status == 1
    assert reports[0]["breaking"][0]["dotted"] == "comfy.ops.gone"
