"""How soon the page can be used. `make test` runs this file alone: beside other tests it would measure them."""

import time

from browser.comfy_page import ComfyPage


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
    assert min(took) < 5, took
