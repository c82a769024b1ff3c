"""A browser, and the servers that it is sent to."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "comfy"))
from comfy_page import ComfyPage
from comfyui import missing as comfyui_missing
from sites import comfyui, studio

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


@pytest.fixture(scope="package", params=SITES)
def site(request, tmp_path_factory):
    """A server on a bare base directory: the built-in demo is its only model."""
    base = tmp_path_factory.mktemp(request.param)
    with {"studio": studio, "comfyui": comfyui}[request.param](base) as site:
        yield site


@pytest.fixture
def open_page(request, browser, site):
    """Opens windows of their own, each with an empty graph; what they showed is kept when a test fails."""
    windows, failed, pages = [], request.session.testsfailed, []

    def open_page(vue=False, width=1600, height=1000):
        windows.append(browser.new_context(viewport={"width": width, "height": height}))
        pages.append(ComfyPage(windows[-1].new_page(), site.url, vue))
        return pages[-1].open()

    yield open_page
    if request.session.testsfailed > failed:
        for number, page in enumerate(pages):
            page.shot(f"failed-{request.node.name}-{number}")
    for window in windows:
        window.close()
