"""Checks inside ComfyUI's process, all in one start of its interpreter."""

import ast
import json
import subprocess
from pathlib import Path

import pytest
from support.comfyui import COMFYUI, ENVIRONMENT, needs_comfyui, python

FILES = (
    "checks_inside.py",
    "checks_clips.py",
    "checks_sampler.py",
    "checks_streams.py",
    "checks_loras.py",
    "checks_lora_kinds.py",
    "checks_text_vae.py",
    "checks_drafts.py",
    "checks_ltx.py",
    "checks_sana2.py",
    "checks_fused.py",
    "checks_store.py",
    "checks_films.py",
)

pytestmark = needs_comfyui


def _names():
    """The names of the decorated checks, without importing them: they need ComfyUI."""
    for file in FILES:
        for node in ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(
                getattr(d, "id", "") == "check" for d in node.decorator_list
            ):
                yield node.name


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inside")
    done = subprocess.run(
        [python(), str(Path(__file__).with_name(FILES[0])), str(COMFYUI)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(lines[-1].removeprefix("RESULTS "))


@pytest.mark.parametrize("name", tuple(_names()))
def test_inside(results, name):
    assert results[name] == "ok", results[name]


def test_a_check_can_fail(results):
    """`fails_on_purpose` proves that the runner reports failures."""
    assert "AssertionError: on purpose" in results["fails_on_purpose"]
