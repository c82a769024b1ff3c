"""How soon the page can be used."""

import time

from support.calibration import limit
from support.comfy_page import ComfyPage


def test_ready_within_five_seconds(browser, site):
    took = []
    for _ in range(3):
        context = browser.new_context()
        window = ComfyPage(context.new_page(), site.url)
        begun = time.perf_counter()
        window.page.goto(site.url)
        window.wait_until_ready()
        took.append(time.perf_counter() - begun)
        context.close()
        if took[-1] < limit(5):  # once is enough: something else may run beside it
            return
    raise AssertionError(took)
