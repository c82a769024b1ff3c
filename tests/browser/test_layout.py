"""Nothing that the page draws covers anything else: as a workflow is opened, when its files are missing, and
after a run; on the canvas, and by Vue.
"""

import json

import pytest
from support.layout import RECTANGLES, SHOW, covered, results
from support.sites import ROOT

FILES = sorted((ROOT / "workflows").glob("SANA-Video*.json"))
SETTLED = "() => new Promise(done => setTimeout(() => requestAnimationFrame(done), 250))"


def rectangles(window):
    window.page.evaluate(SETTLED)
    return window.page.evaluate(RECTANGLES)


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_nothing_is_covered(site, window, subtests, vue):
    window.empty(vue)
    shown = results(site.base / "output")
    for path in FILES:
        with subtests.test(name=path.stem):
            window.page.evaluate("w => app.loadGraphData(w)", json.loads(path.read_text(encoding="utf-8")))
            assert covered(rectangles(window)) == []
            if "demo" not in path.stem:
                assert window.run().status == 400
                assert covered(rectangles(window)) == []
            window.page.evaluate(SHOW, shown)
            assert covered(rectangles(window)) == []
