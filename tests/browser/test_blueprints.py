"""Our blueprints as an artist uses them: found among the nodes, chained, run, edited, run again."""

import json
import urllib.request
from itertools import pairwise

import pytest
from comfyui_sana_video.standalone.engine.workflow_file import to_prompt
from comfyui_sana_video.workflows.scenes import GEMMA, LONG, WAN

SHOT, FILM = "SANA-Video shot", "SANA-Video film"
DEMO = "demo (built in)"
PROMPTS = (
    "a red ball moves right over a {} floor",
    "a red ball turns yellow and moves in a circle over a {} floor",
    "a yellow ball grows over a {} floor",
)
OTHER = "a red ball turns green and moves up over a {} floor"
SIDE = 64  # pixels
AROUND = {  # what the shots lie between: class, place
    "model": ("SanaVideoModelLoader", 40, 60),
    "encoder": ("SanaVideoTextEncoderLoader", 40, 320),
    "vae": ("SanaVideoVAELoader", 40, 520),
    "start": ("SanaVideoStart", 40, 720),
    "film": ("SanaVideoDecodeStream", 1720, 60),
    "save": ("SaveVideo", 1720, 560),
}
PUT = """nodes => nodes.map(([kind, x, y]) => {
    const node = LiteGraph.createNode(kind);
    node.pos = [x, y]; app.graph.add(node); return String(node.id) })"""
MISSING = """() => (document.getElementById('vue-app').__vue_app__.config.globalProperties.$pinia
    ._s.get('missingModel').missingModelCandidates ?? []).map(one => [one.name, one.directory, one.url])"""
CHOOSE = """([id, name, value]) => {
    const widget = app.graph.getNodeById(id).widgets.find(widget => widget.name === name);
    widget.value = value; widget.callback?.(value) }"""
FLOORS = {False: "blue", True: "grey"}  # so that nothing was made before, by canvas or Vue


@pytest.fixture(scope="module")
def info(site):
    with urllib.request.urlopen(f"{site.url}/object_info") as answer:
        return json.load(answer)


def chain(window, count):
    """Shots by mouse, each on the state of the one before."""
    window.zoom(0.8)
    nodes = dict(zip(AROUND, window.page.evaluate(PUT, [*AROUND.values()]), strict=True))
    shots = [window.add(SHOT, 640 + 290 * column, 200) for column in range(count)]
    for shot in shots:
        window.connect(nodes["model"], "model", shot, "model")
        window.connect(nodes["encoder"], "text_encoder", shot, "text_encoder")
    for node, following in pairwise([nodes["start"], *shots, nodes["film"]]):
        window.connect(node, "state", following, "state")
    window.connect(nodes["model"], "model", nodes["start"], "model")
    window.connect(nodes["vae"], "vae", nodes["film"], "vae")
    window.connect(nodes["film"], "video", nodes["save"], "video")
    for name in ("width", "height"):
        window.type_number(nodes["start"], name, SIDE)
    return nodes, shots


def one_chunk(window, shot):
    """One less than the two that a shot comes with: on the canvas by the arrow left of the number."""
    if window.vue:
        window.type_number(shot, "chunks", 1)
        return
    x, y = window.widget(shot, "chunks")
    half = window.page.evaluate("id => app.graph.getNodeById(id).size[0] / 2 * app.canvas.ds.scale", shot)
    value = "id => app.graph.getNodeById(id).widgets.find(widget => widget.name === 'chunks').value"
    for _ in range(5):
        window.page.wait_for_timeout(320)  # or it would be half of a double click
        window.page.mouse.click(x - 0.87 * half, y)
        if window.page.evaluate(value, shot) == 1:
            return


def ran(window):
    """The nodes that have worked since Run was clicked; a shot stands for those inside."""
    heard = [m["data"] for m in window.messages if m["type"] == "executing"]
    return {data["node"].split(":")[0] for data in heard if data.get("node")}


def asked(window, info):
    """The prompt that the page makes; the command line makes the same of the drawing."""
    prompts = window.prompt(), to_prompt(window.serialized(), info)
    page, ours = ({i: (n["class_type"], n["inputs"]) for i, n in prompt.items()} for prompt in prompts)
    assert ours == page
    return page


@pytest.mark.parametrize("vue, count", [(False, 3), (True, 2)], ids=["canvas", "vue"])
def test_shots_are_chained_run_and_edited(site, window, info, vue, count):
    if site.kind == "studio" and not vue:
        pytest.skip("the studio shows one, a ComfyUI all: it takes a while")
    nodes, shots = chain(window.empty(vue, width=1920, height=1200), count)
    texts = [text.format(FLOORS[vue]) for text in PROMPTS[:count]]
    for shot, text in zip(shots, texts, strict=True):
        window.type_text(shot, text)
        one_chunk(window, shot)
    kind = "vue" if vue else "canvas"
    window.shot(f"blueprints-{kind}-built")
    inputs = [inputs for _, inputs in asked(window, info).values()]
    assert sorted(one["text"] for one in inputs if "text" in one) == sorted(texts)
    assert [one["chunks"] for one in inputs if "chunks" in one] == [1] * count
    assert window.run().status == 200
    window.wait_for("executed", 120, node=nodes["save"])
    window.wait_for("execution_success")
    assert window.playing()["length"] == pytest.approx((1 + 40 * count) / 16, abs=0.1)
    window.shot(f"blueprints-{kind}-done")
    window.type_text(shots[1], OTHER.format(FLOORS[vue]))
    assert window.run().status == 200
    window.wait_for("execution_success")
    assert ran(window) == {*shots[1:], nodes["film"], nodes["save"]}
    assert window.outside == []
    assert window.errors == []


def test_a_film_in_one_box(window, info):
    film = window.empty(True, width=1600, height=1200).add(FILM, 600, 150)
    missing = window.page.evaluate(MISSING)
    assert sorted(name for name, _, _ in missing) == sorted([LONG, GEMMA, WAN])
    assert {place for _, place, _ in missing} == {"diffusion_models", "text_encoders", "vae"}
    assert all(url.startswith("https://huggingface.co/") and url.endswith(name) for name, _, url in missing)
    window.type_text(film, f"0:00 {PROMPTS[0]}\n0:02.5 cut: {PROMPTS[2]}".format("black", "black"))
    for name, value in {"seconds": 5, "width": SIDE, "height": SIDE}.items():
        window.type_number(film, name, value)
    window.shot("blueprints-film-built")
    for name in ("model_name", "encoder_name", "vae_name"):
        window.page.evaluate(CHOOSE, [film, name, DEMO])
    asked(window, info)
    assert window.run().status == 200
    window.page.locator(
        f"[data-node-id='{film}'] img"
    ).first.wait_for()  # the live pictures of the node inside
    window.wait_for("execution_success")
    assert window.playing()["length"] == pytest.approx(5, abs=0.2)
    window.shot("blueprints-film-done")
    assert window.errors == []
