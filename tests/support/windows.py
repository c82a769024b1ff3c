"""A browser, and the servers that it is sent to. All tests of the page share one browser and one window."""

import os
import shutil
from contextlib import ExitStack

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


class Shared:
    """What one test of the page leaves to the next. Loading the page takes five seconds of a processor."""

    def __init__(self):
        self.stack, self.browser, self.windows = ExitStack(), None, {}

    def launch(self):
        if self.browser is None:
            playwright = self.stack.enter_context(sync_playwright())
            self.browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            self.stack.callback(self.browser.close)
        return self.browser

    def window(self, site):
        """The window of all tests on this site."""
        if site not in self.windows:
            self.windows[site] = self.new(site).open()
        return self.windows[site]

    def new(self, site):
        """A window that nobody else has: nothing moves for show, which takes twice the time."""
        return ComfyPage(self.launch().new_context(reduced_motion="reduce").new_page(), site.url)

    def close(self):
        self.stack.close()
        self.__init__()


SHARED = Shared()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Close the browser after the last test of the page: while it is open, no test can have an event loop."""
    if nextitem is None or nextitem.path.parent != item.path.parent:
        SHARED.close()


@pytest.fixture(scope="session")
def needs_browser():
    if CHROMIUM is None and os.environ.get("BROWSER_TESTS") != "required":
        pytest.skip("no Chromium; install Debian's package chromium, or set CHROMIUM to its program")
    assert CHROMIUM, "BROWSER_TESTS=required, but there is no Chromium"


@pytest.fixture
def browser(needs_browser):
    return SHARED.launch()


@pytest.fixture(scope="session", params=SITES)
def site(request, tmp_path_factory):
    """A server on a bare base directory: the built-in demo is its only model."""
    base = tmp_path_factory.mktemp(request.param)
    with {"studio": studio, "comfyui": comfyui}[request.param](base) as site:
        yield site
        SHARED.close()  # a server waits for its windows


@pytest.fixture
def window(request, browser, site):
    """The shared window, its graph empty. After a failure, what it showed is kept, and the window isn't."""
    failed, window = request.session.testsfailed, SHARED.window(site)
    yield window.empty()
    if request.session.testsfailed > failed:
        window.shot(f"failed-{request.node.name}")
        SHARED.windows.pop(site).page.context.close()


@pytest.fixture
def new_window(request, browser, site):
    """A window of the test's own, not opened yet; what it showed is kept when a test fails."""
    failed, window = request.session.testsfailed, SHARED.new(site)
    yield window
    if request.session.testsfailed > failed:
        window.shot(f"failed-{request.node.name}-new")
    window.page.context.close()
