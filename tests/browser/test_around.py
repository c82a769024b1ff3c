"""Around a run: opening, Templates, help, saved workflows, pictures from the artist's disk."""

import json
import re

import pytest
import torch
from comfyui_sana_video.bridge.states import opened_by_the_page
from comfyui_sana_video.workflows.build import NAMES
from PIL import Image
from playwright.sync_api import expect
from safetensors.torch import save_file
from support.calibration import until
from support.comfy_page import ComfyPage
from support.sites import ROOT

DEMO, FILM = NAMES["0"], NAMES["9"]


def drawing(name):
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def test_templates_open_with_our_workflows(browser, site):
    """In the studio they are what a newcomer sees first; in ComfyUI a search finds them, in order.

    The film and 2.0, whose names are short, come early.
    """
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    window = ComfyPage(context.new_page(), site.url)
    window.first_visit()
    dialog = window.page.get_by_role("dialog")
    if site.kind == "comfyui":
        dialog.get_by_text("ComfyUI-SANA-Video").click()
    dialog.get_by_role("textbox").first.fill("sana")
    window.page.wait_for_timeout(1000)
    window.shot("templates")
    cards = dialog.locator("[data-testid^='template-workflow-']")
    found = [card.get_attribute("data-testid").removeprefix("template-workflow-") for card in cards.all()]
    found = [name for name in found if name in NAMES.values()]
    assert FILM in found[:6]
    early = (FILM, NAMES["10"], NAMES["11"])  # their names are short, too
    assert set(found) == set(NAMES.values())
    assert [name for name in found if name not in early] == [n for n in NAMES.values() if n not in early]
    assert dialog.get_by_text(NAMES["1"]).first.is_visible()
    dialog.get_by_text(DEMO).first.click()
    dialog.wait_for(state="hidden")
    window.page.wait_for_timeout(500)
    kinds = [node["type"] for node in window.widgets()]
    assert sorted(kinds) == sorted(node["type"] for node in drawing(DEMO)["nodes"])
    assert window.errors == []
    context.close()


# “stream” finds the three nodes that are called so before any other, and “sana” those with the shortest ids
ELSEWHERE = {"sana": "Start SANA-Video Stream", "long video": "SANA-Video Film"}
WORDS = (
    "sana",
    "longsana",
    "next shot",
    "loop video",
    "video continuation",
    "long video",
    "extend",
    "continue",
)


def test_words_of_artists_lead_to_the_stream(window):
    box = window.search_box(800, 500)
    for word in WORDS:
        box.fill(word)
        window.page.wait_for_timeout(400)
        results = window.page.locator("[role=option], [data-testid=result-item]").all_inner_texts()
        ours = [text for text in results if "SANA-Video" in text]  # ComfyUI has an Extend… of its own
        assert ELSEWHERE.get(word, "Block Sampler") in ours[0], (word, results)
    window.page.keyboard.press("Escape")


def test_help_of_a_node(window):
    window.load(drawing(DEMO))
    window.fit()
    window.page.mouse.click(*window.title_of("2"))
    window.page.get_by_test_id("info-button").click()
    text = (ROOT / "web" / "docs" / "SanaVideoModelLoader.md").read_text(encoding="utf-8")
    heading = re.search(r"^## (Good to know)$", text, re.M)[1]
    expect(window.page.get_by_role("heading", name=heading)).to_be_visible()
    expect(window.page.get_by_text(text.split("\n\n")[1].strip()).last).to_be_visible()
    picture = window.page.get_by_role("img", name="The loader with the built-in demo")
    assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 600
    window.shot("help")


def test_links_of_help_are_followed_in_the_panel(window):
    """The page would open them in a new tab, as an address that isn't there."""
    window.load(drawing(DEMO))
    window.fit()
    window.page.mouse.click(*window.title_of("2"))
    window.page.get_by_test_id("info-button").click()
    panel = window.page.locator(".node-help-content")
    title = panel.locator("h1")
    expect(title).to_have_text("Load SANA-Video Model")
    panel.get_by_role("link", name="Start SANA-Video Stream").click()
    expect(title).to_have_text("Start SANA-Video Stream")
    picture = panel.get_by_role("img")
    assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 600
    expect(title).to_be_in_viewport()
    window.shot("help-followed")
    panel.get_by_role("link", name="Load SANA-Video Model").click()
    expect(title).to_have_text("Load SANA-Video Model")
    panel.get_by_role("link", name="Load SANA-Video LoRA").click()
    expect(title).to_have_text("Load SANA-Video LoRA")
    window.page.mouse.click(*window.title_of("2"))  # the panel belongs to what is selected
    expect(title).to_have_text("Load SANA-Video Model")
    assert len(window.page.context.pages) == 1


def test_every_node_has_its_help_page(window):
    pages = window.page.evaluate("""async () => { const pages = {};
        for (const [name, type] of Object.entries(LiteGraph.registered_node_types)) {
            const pack = type.nodeData?.python_module?.split('.')[1];
            if (!name.startsWith('SanaVideo')) continue;
            pages[name] = await (await fetch(`/extensions/${pack}/docs/${name}.md`)).text();
        } return pages }""")
    assert pages == {
        path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "web" / "docs").glob("*.md")
    }


def test_a_workflow_is_saved_and_opened_again(site, window, new_window):
    window.load(drawing(DEMO), "draft")
    kept = window.prompt()
    window.page.keyboard.press("Control+s")
    window.page.get_by_role("dialog").get_by_role("textbox").fill("my film")
    window.page.keyboard.press("Enter")
    place = site.base / "user" / "default" / "workflows" / "my film.json"
    until(place.is_file, 10, window.pause)
    assert len(json.loads(place.read_text(encoding="utf-8"))["nodes"]) == 5
    other = new_window.open().empty()
    other.page.keyboard.press("w")
    other.page.get_by_text("my film", exact=True).click()
    other.page.wait_for_function("() => app.graph.nodes.length === 5")
    assert other.prompt() == kept
    place.unlink()


def test_a_picture_is_uploaded_and_begins_a_stream(site, window, tmp_path):
    Image.linear_gradient("L").convert("RGB").resize((128, 128)).save(tmp_path / "sunset.png")
    node = window.add("Load Image", 800, 300)
    with window.page.expect_file_chooser() as chooser:
        window.page.mouse.click(*window.widget(node, "upload"))
    chooser.value.set_files(tmp_path / "sunset.png")
    window.page.wait_for_function("() => app.graph.nodes[0].imgs?.[0]?.naturalWidth === 128")
    assert (site.base / "input" / "sunset.png").is_file()
    assert window.prompt()[node]["inputs"]["image"] == "sunset.png"


def test_nodes_that_only_comfyui_runs(site, window):
    if site.kind == "comfyui":
        pytest.skip("there they run")
    workflow = drawing(NAMES["6"])
    window.load(workflow)
    answer = window.run()
    assert answer.status == 400
    sampler = next(str(node["id"]) for node in workflow["nodes"] if node["type"] == "SamplerCustomAdvanced")
    assert "Only a real ComfyUI runs CFGGuider, Sampler" in answer.text()
    assert sampler in answer.json()["node_errors"]
    assert "SamplerDPMPP_2M_SDE. Start one" in window.details_of_errors()
    window.shot("only-in-comfyui")


def test_a_state_s_file_opens_as_load_state(window, tmp_path):
    """What Save State writes beside the tensors; dropped, a file takes the same way."""
    name = "sana_states/today_00001_.safetensors [output]"
    workflow = {"workflow": opened_by_the_page(name)}
    save_file({"memory": torch.zeros(1)}, tmp_path / "today_00001_.safetensors", metadata=workflow)
    window.empty()
    window.page.locator("#comfy-file-input").set_input_files(tmp_path / "today_00001_.safetensors")
    window.page.wait_for_function("() => app.graph.nodes.length === 2")
    load, info = window.widgets()
    assert (load["type"], load["widgets"][0]["value"]) == ("SanaVideoLoadState", name)
    assert info["type"] == "SanaVideoStateInfo"
    sources = "() => app.graph.nodes.map(node => node.getInputNode(0)?.type)"
    assert window.page.evaluate(sources) == [None, "SanaVideoLoadState"]
    assert window.errors == []
