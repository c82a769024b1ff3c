"""Templates as apps: opened, filled in, run, watched, changed, run again."""

import json

import pytest
from comfyui_sana_video.workflows.build import NAMES
from playwright.sync_api import expect
from support.sites import ROOT

SHOTS = ("a red ball moves right over a grey floor", "a green star spins over a {} floor")

LARGE = "() => [...document.querySelectorAll('video')].some(v => v.offsetWidth > 300 && v.videoWidth === 64)"


def script(floor):
    return "0:00 {}\n0:02.5 cut: {}\n0:05 end".format(*SHOTS).format(floor)


def template(number):
    return json.loads((ROOT / "workflows" / f"{NAMES[number]}.json").read_text(encoding="utf-8"))


def as_app(window, workflow):
    """The app's inputs."""
    window.empty(vue=True, width=1600, height=1100)
    window.load(workflow, "app")
    window.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    inputs = window.page.get_by_test_id("linear-widgets")
    inputs.wait_for()
    window.page.wait_for_timeout(500)
    tour = window.page.get_by_role("button", name="Skip")  # newer pages offer one
    if tour.is_visible():
        tour.click()
    return inputs


@pytest.fixture
def graph_again(window):
    yield
    window.page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")


@pytest.mark.usefixtures("graph_again")
def test_a_film_as_an_app(window):
    workflow = template("0")
    film = workflow["nodes"][-1]
    film["widgets_values"][2:4] = 64, 64  # what is asked is the way, not the picture
    inputs = as_app(window, workflow)
    text = inputs.locator("textarea").first
    expect(text).to_have_value(film["widgets_values"][0])
    run = window.page.get_by_test_id("linear-run-button").locator("button", has_text="Run").last
    window.shot("app-opened")
    shown = window.page.locator("video:visible").first
    for floor, made in (("blue", ""), ("brown", "1 of 2 chunks are from the store.")):
        text.fill(script(floor))
        window.messages.clear()
        run.click()
        window.wait_for("progress", 60, node=str(film["id"]))
        window.shot(f"app-{floor}-running")
        window.wait_for("execution_success")
        expect(shown).to_be_visible()
        window.page.wait_for_function(LARGE)
        assert made in window.words(str(film["id"]))
        window.shot(f"app-{floor}-done")
    assert window.previews >= 3
    assert window.errors == []


@pytest.mark.usefixtures("graph_again")
@pytest.mark.parametrize("number", ["0", "1", "5", "9", "10"])
def test_an_app_shows_the_widgets_that_its_file_names(site, window, number):
    if site.kind == "studio" and number in ("0", "1", "10"):
        pytest.skip("the studio shows one, a ComfyUI all: it takes a while")
    workflow = template(number)
    names = [name for _, name, *_ in workflow["extra"]["linearData"]["inputs"]]
    shown = as_app(window, workflow).inner_text().split("\n")
    window.shot(f"app-{number}")
    assert [line for line in shown if line in names] == names
    assert window.errors == []
