"""Every workflow file in the real page: what it builds from a file is what the file says.

The page corrects, drops and swaps values in silence, so all of it is asked for; each question is shown to be
able to fail.
"""

import json
import urllib.request
from copy import deepcopy
from functools import cache

import pytest
from comfyui_sana_video.workflows.scenes import YOUR_LORA
from PIL import Image
from support.calibration import until
from support.sites import ROOT
from support.windows import SHARED
from support.workflow_checks import CHECKS, wrong_prompt, wrong_values

FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("SANA-Video*.json"))
SHOTS = next(name for name in NAMES if name.startswith("SANA-Video 02"))


@cache
def read(name):
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def furnished(site, needs_browser):
    """The files that our workflows name, as a person has them; only their names matter here."""
    for name in NAMES:
        for node in json.loads(read(name))["nodes"]:
            for model in node["properties"].get("models", []):
                place = site.base / "models" / model["directory"] / model["name"]
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
    lora = site.base / "models" / "loras" / YOUR_LORA
    lora.parent.mkdir(parents=True, exist_ok=True)
    lora.touch()
    state = site.base / "output" / "sana_states" / "today_00001_.safetensors"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.touch()
    (site.base / "input").mkdir(exist_ok=True)
    Image.radial_gradient("L").convert("RGB").save(site.base / "input" / "example.png")
    SHARED.window(site).refresh()  # a page knows the files that were there when it was opened
    yield site
    state.unlink()
    for place in (site.base / "models").glob("*/*"):
        place.unlink()


@pytest.fixture(scope="module")
def info(furnished):
    with urllib.request.urlopen(f"{furnished.url}/object_info") as answer:
        return json.load(answer)


def load(window, workflow, twin):
    window.load(workflow)
    loaded = {"file": workflow, "twin": twin, "saved": window.serialized(), "widgets": window.widgets()}
    try:
        loaded["prompt"] = window.prompt()
    except Exception as error:  # a link to nowhere: some versions of the page raise, others drop it
        loaded["prompt"] = {"error": {"class_type": str(error), "inputs": {}}}
    return loaded


def problems(window, workflow, twin, info):
    loaded = load(window, workflow, twin)
    return [problem for check in CHECKS for problem in check(loaded, info)]


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_files(info, window, subtests, vue):
    window.empty(vue)
    for name in NAMES:
        with subtests.test(name=name):
            workflow, twin = json.loads(read(name)), json.loads(read(f"api/{name}"))
            assert problems(window, deepcopy(workflow), twin, info) == []
            assert window.outside == []
            assert window.errors == []


def of(workflow, kind):
    return next(node for node in workflow["nodes"] if node["type"] == kind)


def values(kind, position, value):
    return lambda w: of(w, kind)["widgets_values"].__setitem__(position, value)


MISTAKES = {  # what is wrong: (a word of the problem that must be reported, what to do to three shots)
    "a node of nobody": ("missing type", lambda w: of(w, "SanaVideoStart").update(type="SomebodyElsesNode")),
    "a value too few": ("values of", lambda w: of(w, "SanaVideoBlockSampler")["widgets_values"].pop()),
    "a value too many": ("values of", lambda w: of(w, "SanaVideoStart")["widgets_values"].append(1)),
    "no values": ("values of", lambda w: of(w, "SanaVideoStart").pop("widgets_values")),
    "values by name": ("values of", lambda w: of(w, "SanaVideoStart").update(widgets_values={"width": 832})),
    "swapped": ("holds", lambda w: of(w, "SanaVideoBlockSampler")["widgets_values"].reverse()),
    "shifted, but valid": ("prompt differs", values("SanaVideoStart", 0, 480)),
    "out of range": ("out of range", values("SanaVideoBlockSampler", 0, 100_000)),
    "below the range": ("out of range", values("SanaVideoBlockSampler", 0, 0)),
    "a link from nowhere": ("leads nowhere", lambda w: w["links"].append([99, 77, 0, 15, 1, "SANA_STATE"])),
    "a link into another type": (
        "takes CONDITIONING, the link brings",
        lambda w: _swap(w, "positive", "state"),
    ),
    "no such choice": ("no choice", values("SanaVideoBlockSampler", 4, "few")),
    "an unknown input": (
        "is unknown",
        lambda w: of(w, "SanaVideoBlockSampler")["inputs"][3].update(name="blocks"),
    ),
    "a link of another type": ("the link brings", lambda w: w["links"][0].__setitem__(5, "LATENT")),
    "an open socket": ("prompt lacks", lambda w: _cut(w, "SanaVideoBlockSampler", "state")),
}


def _swap(workflow, one, other):
    """Let the first sampler's links end in each other's inputs, with types that say nothing of it."""
    sampler = of(workflow, "SanaVideoBlockSampler")
    places = {entry["name"]: number for number, entry in enumerate(sampler["inputs"])}
    for link in workflow["links"]:
        if link[3] == sampler["id"] and link[4] in (places[one], places[other]):
            link[4] = places[one] + places[other] - link[4]
            link[5] = "*"


def _cut(workflow, kind, name):
    entry = next(entry for entry in of(workflow, kind)["inputs"] if entry["name"] == name)
    workflow["links"] = [link for link in workflow["links"] if link[0] != entry["link"]]
    for node in workflow["nodes"]:
        for output in node["outputs"]:
            output["links"] = [i for i in output["links"] or [] if i != entry["link"]]
    entry["link"] = None


def test_a_mistake_is_seen(info, window, subtests):
    """What is asked is the same whoever draws the nodes, so one window is enough."""
    for name, (word, spoil) in MISTAKES.items():
        with subtests.test(name=name):
            workflow, twin = json.loads(read(SHOTS)), json.loads(read(f"api/{SHOTS}"))
            spoil(workflow)
            reported = problems(window, deepcopy(workflow), twin, info)
            assert any(word in problem for problem in reported), reported


def test_a_widget_that_the_page_builds_otherwise_is_seen(info, window):
    """Kinds, ranges and choices: the server says another thing than the page has built."""
    workflow, twin = json.loads(read(SHOTS)), json.loads(read(f"api/{SHOTS}"))
    altered = deepcopy(info)
    start = altered["SanaVideoStart"]["input"]["required"]
    start["width"][1]["max"] += 16
    start["height"][0] = "STRING"
    altered["SanaVideoModelLoader"]["input"]["required"]["family"][1]["options"].append("other")
    vae = altered["SanaVideoVAELoader"]["input"]["required"]
    vae["another"] = vae["vae_name"]
    altered["SanaVideoTextEncode"]["input"]["required"]["motion_score"][1]["min"] += 1
    reported = problems(window, workflow, twin, altered)
    words = {"has max": 1, "is a number": 1, "offers": 1, "widgets of SanaVideoVAELoader": 1, "has min": 3}
    assert {word: sum(word in problem for problem in reported) for word in words} == words


def test_links_that_the_page_changes_are_seen(info, window):
    workflow, twin = json.loads(read(SHOTS)), json.loads(read(f"api/{SHOTS}"))
    loaded = load(window, workflow, twin)
    loaded["saved"]["links"].pop()
    assert list(wrong_values(loaded, info)) == ["values of links"]


def test_requests_to_others_and_errors_of_scripts_are_seen(window):
    window.page.evaluate(
        "() => { new Image().src = 'https://example.org/a.png'; setTimeout(() => { throw Error('x') }) }"
    )
    until(lambda: window.errors, 10, window.pause)
    assert window.errors == ["x"]
    assert window.outside in ([], ["https://example.org/a.png"])  # or refused by the server's policy before
    window._watch(type("Request", (), {"url": "https://example.org/"}))
    assert "https://example.org/" in window.outside


def test_a_link_to_nowhere_is_seen(info, window):
    workflow, twin = json.loads(read(SHOTS)), json.loads(read(f"api/{SHOTS}"))
    workflow["nodes"] = [node for node in workflow["nodes"] if node["type"] != "SanaVideoStart"]
    loaded = load(window, deepcopy(workflow), twin)
    assert list(wrong_prompt(loaded, info))
