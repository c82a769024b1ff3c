"""A browser, and the servers that it is sent to."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from .comfy_page import ComfyPage
from .sites import NO_COMFYUI, comfyui, studio

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SITES = [
    "studio",
    pytest.param(
        "comfyui", marks=[pytest.mark.comfy, pytest.mark.skipif(bool(NO_COMFYUI), reason=NO_COMFYUI or "")]
    ),
]


@pytest.fixture(scope="module")  # not longer: while it is open, no other test can have an event loop
def browser():
    if CHROMIUM is None and os.environ.get("BROWSER_TESTS") != "required":
        pytest.skip("no Chromium; install Debian's package chromium, or set CHROMIUM to its program")
    assert CHROMIUM, "BROWSER_TESTS=required, but there is no Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=SITES)
def site(request, tmp_path_factory):
    """A server on a bare base directory: the built-in demo is its only model."""
    base = tmp_path_factory.mktemp(request.param)
    with {"studio": studio, "comfyui": comfyui}[request.param](base) as site:
        yield site


@pytest.fixture
def open_page(request, browser, site):
    """Opens windows of their own, each with an empty graph; what they showed is kept when a test fails."""
    windows, failed, pages = [], request.session.testsfailed, []

    def open_page(vue=False, width=1600, height=1000, before=lambda page: None):
        windows.append(browser.new_context(viewport={"width": width, "height": height}))
        pages.append(ComfyPage(windows[-1].new_page(), site.url, vue))
        before(pages[-1].page)
        return pages[-1].open()

    yield open_page
    if request.session.testsfailed > failed:
        for number, page in enumerate(pages):
            page.shot(f"failed-{request.node.name}-{number}")
    for window in windows:
        window.close()
