"""What the page offers to download when a template is opened without its models."""

import json

import pytest
from comfyui_sana_video.workflows import build
from comfyui_sana_video.workflows.scenes import MODELS
from support.calibration import until
from support.sites import ROOT

LISTED = """() => { const page = document.getElementById('vue-app').__vue_app__.config.globalProperties;
    const found = page.$pinia._s.get('missingModel')?.missingModelCandidates ?? [];
    return found.map(({name, url, directory}) => [name, url, directory]) }"""


@pytest.mark.parametrize("number", ["1", "6", "8", "9"])
def test_the_page_lists_all_models_of_a_template(site, window, number):
    """And not the LoRA of a bypassed node."""
    if site.kind == "studio" and number != "1":
        pytest.skip("the studio shows one, a ComfyUI all: it takes a while")
    window.empty()
    workflow = json.loads((ROOT / "workflows" / f"{build.NAMES[number]}.json").read_text(encoding="utf-8"))
    window.load(workflow)
    files = {e["name"] for node in workflow["nodes"] for e in node["properties"].get("models", ())}
    assert len(files) == 3
    expected = [[name, build.HUB + MODELS[name][1], MODELS[name][0]] for name in sorted(files)]
    until(lambda: sorted(window.page.evaluate(LISTED)) == expected, 10, window.pause)
