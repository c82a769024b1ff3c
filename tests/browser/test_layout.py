"""Nothing that the page draws covers anything else: as a workflow is opened, when its files are missing, and
after a run; on the canvas, and by Vue.
"""

import json
import os

import pytest
from comfyui_sana_video.workflows.build import NAMES
from support.demo_chain import demo_chain
from support.layout import RECTANGLES, SHOW, covered, results
from support.sites import ROOT

EVERY = os.environ.get("EVERY_WORKFLOW")  # takes a minute; a few have all kinds of nodes
SOME = tuple(set(NAMES) - {"0"}) if EVERY else ("1", "4a", "4b", "5", "6", "7", "8", "9")
FILES = [ROOT / "workflows" / f"{NAMES[number]}.json" for number in SOME]
BOTH = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
SETTLED = "() => new Promise(done => setTimeout(() => requestAnimationFrame(done), 150))"
VIDEOS = "[...document.querySelectorAll('video')]"
SMALL = {"SanaVideoStart": {0: 64, 1: 64}, "SanaVideoBlockSampler": {0: 1}}  # width, height; chunks


def rectangles(window):
    window.page.evaluate(SETTLED)
    return window.page.evaluate(RECTANGLES)


def kinds(paths):
    return {node["type"] for path in paths for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}


def test_some_have_all_kinds():
    assert kinds(FILES) == kinds((ROOT / "workflows").glob("SANA-Video*.json"))


@BOTH
def test_nothing_is_covered(site, window, subtests, vue):
    window.empty(vue)
    shown = results(site.base / "output")
    for path in FILES:
        with subtests.test(name=path.stem):
            window.page.evaluate("w => app.loadGraphData(w)", json.loads(path.read_text(encoding="utf-8")))
            assert covered(rectangles(window)) == []
            assert window.run().status == 400
            assert covered(rectangles(window)) == []
            window.page.evaluate(SHOW, shown)
            assert covered(rectangles(window)) == []
            window.shot(f"{path.stem}-{'vue' if vue else 'canvas'}")


@BOTH
def test_nothing_is_covered_after_a_run(window, vue):
    """What `SHOW` sends above, as the server really sends it."""
    window.empty(vue)
    workflow = demo_chain()
    for node in workflow["nodes"]:
        for place, value in SMALL.get(node["type"], {}).items():
            node["widgets_values"][place] = value
        if node["type"] == "SanaVideoBlockSampler":
            node["widgets_values"][1] += 400 + vue  # a seed of its own, or nothing runs
    window.load(workflow)
    assert window.run().status == 200
    window.wait_for("execution_success")
    assert window.previews >= 6  # of two samplers: an estimate, a chunk, the last frame
    assert covered(rectangles(window)) == []
    window.fit()
    window.shot(f"layout-{'vue' if vue else 'canvas'}")


@BOTH
def test_the_demo_s_film_stays_in_its_node(window, vue):
    """It is square, so the page draws it as high as the node is wide."""
    window.empty(vue)
    workflow = json.loads((ROOT / "workflows" / f"{NAMES['0']}.json").read_text(encoding="utf-8"))
    film = workflow["nodes"][-1]
    # two scenes, so that the plan has some lines; each renderer its own seed, or nothing runs
    film["widgets_values"][0] = "\n".join(film["widgets_values"][0].split("\n")[:2]) + "\n0:07.5 end"
    film["widgets_values"][2:5] = 64, 64, 500 + vue
    window.load(workflow)
    assert window.run().status == 200
    window.wait_for("execution_success")
    window.page.wait_for_function(f"() => {VIDEOS}.some(v => v.videoWidth === 64)")
    window.fit()
    window.shot(f"layout-film-{'vue' if vue else 'canvas'}")
    assert covered(rectangles(window)) == []
    bottom = window.page.evaluate(
        """() => { const group = app.graph.groups.at(-1), [x, y, w, h] = group._bounding;
            const {scale, offset} = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
            return (y + h + offset[1]) * scale + box.top }"""
    )
    shown = window.page.evaluate(f"() => Math.max(...{VIDEOS}.map(v => v.getBoundingClientRect().bottom))")
    assert shown <= bottom + 1
