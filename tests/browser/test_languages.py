"""The page in other languages: titles and labels of our nodes are that language's."""

import json

import pytest
from support.demo_chain import demo_chain
from support.sites import ROOT

SAMPLER = "SanaVideoBlockSampler"


def words(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_the_page_speaks(site, window, language):
    if site.kind == "studio" and language != "ja":
        pytest.skip("the studio shows one, a ComfyUI all: it takes a while")
    window.empty(vue=True, width=1600, height=1100)
    window.set("Comfy.Locale", language)
    window.page.wait_for_timeout(500)
    try:
        window.refresh()
        window.page.wait_for_timeout(500)
        theirs = words(language)[SAMPLER]
        node = window.page.evaluate(
            """kind => { const node = LiteGraph.createNode(kind); app.graph.add(node); return {
                title: node.title, inputs: node.inputs.map(i => [i.name, i.localized_name ?? i.label]),
                outputs: node.outputs.map(o => o.localized_name),
                widgets: node.widgets.map(w => [w.name, w.label]) } }""",
            SAMPLER,
        )
        assert node["title"] == theirs["display_name"]
        assert node["outputs"] == [output["name"] for output in theirs["outputs"].values()]
        for name, label in (*node["inputs"], *node["widgets"]):
            if name in theirs["inputs"]:
                assert label == theirs["inputs"][name]["name"]
        window.load(demo_chain())
        window.fit()
        window.shot(f"language-{language}")
    finally:
        window.set("Comfy.Locale", "en")
    assert window.errors == []
