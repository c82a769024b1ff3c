"""A browser, and the servers that it is sent to."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "comfy"))
from comfy_page import ComfyPage
from comfyui import missing as comfyui_missing
from sites import ROOT, comfyui, studio

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
NO_COMFYUI = comfyui_missing()
SITES = [
    "studio",
    pytest.param(
        "comfyui", marks=[pytest.mark.comfy, pytest.mark.skipif(bool(NO_COMFYUI), reason=NO_COMFYUI or "")]
    ),
]


@pytest.fixture(scope="package")
def browser():
    if CHROMIUM is None and os.environ.get("BROWSER_TESTS") != "required":
        pytest.skip("no Chromium; install Debian's package chromium, or set CHROMIUM to its program")
    assert CHROMIUM, "BROWSER_TESTS=required, but there is no Chromium"
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def _furnish(base: Path) -> None:
    """The files that our workflows name, as a person has them; only their names matter here."""
    for path in (ROOT / "workflows").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            for model in node["properties"].get("models", []):
                place = base / "models" / model["directory"] / model["name"]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
    states = base / "output" / "sana_states"
    states.mkdir(parents=True, exist_ok=True)
    (states / "today_00001_.safetensors").touch()
    (base / "input").mkdir(exist_ok=True)
    Image.radial_gradient("L").convert("RGB").save(base / "input" / "example.png")


@pytest.fixture(scope="package", params=SITES)
def site(request, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    _furnish(base)
    with {"studio": studio, "comfyui": comfyui}[request.param](base) as site:
        yield site


@pytest.fixture
def open_page(browser, site):
    """Opens windows of their own, each with an empty graph."""
    windows = []

    def open_page(vue=False, width=1600, height=1000):
        windows.append(browser.new_context(viewport={"width": width, "height": height}))
        return ComfyPage(windows[-1].new_page(), site.url, vue).open()

    yield open_page
    for window in windows:
        window.close()
