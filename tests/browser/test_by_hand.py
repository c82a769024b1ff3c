"""“Three shots by chaining” as an artist builds it: nodes from the search box, links by mouse, words typed,
Run clicked.
"""

from itertools import pairwise

import pytest

PROMPTS = (
    "a red ball moves right over a blue floor",
    "a red ball turns yellow and moves in a circle over a blue floor",
    "a yellow ball grows over a blue floor",
)
SIDE = 64  # pixels: whether it can be built and runs is asked, not what it shows
ROWS = (130, 480, 830)


def links(shots):
    """(node, output, node, input) of all links."""
    chain = ["start", *(f"shot{i}" for i in range(shots)), "film"]
    return [
        *(("model", "model", to, "model") for to in chain[:-1]),
        *(("encoder", "text_encoder", f"text{i}", "text_encoder") for i in range(shots)),
        *((f"text{i}", "conditioning", f"shot{i}", "positive") for i in range(shots)),
        *((node, "state", following, "state") for node, following in pairwise(chain)),
        ("vae", "vae", "film", "vae"),
        ("film", "video", "save", "video"),
    ]


def build(window, shots):
    """Node ids by name. The window is zoomed out first, so that all of it is in sight."""
    window.zoom(0.7)
    titles = {
        "model": "Load SANA-Video Model",
        "encoder": "Load SANA-Video Text Encoder",
        "vae": "Load SANA-Video VAE",
    }
    titles |= {"start": "Start SANA-Video Stream"}
    nodes = {
        name: window.add(title, 260, 130 + 250 * row) for row, (name, title) in enumerate(titles.items())
    }
    for row, y in enumerate(ROWS[:shots]):
        nodes[f"text{row}"] = window.add("SANA-Video Text Encode", 680, y)
        nodes[f"shot{row}"] = window.add("SANA-Video Block Sampler", 1110, y)
    nodes["film"] = window.add("SANA-Video Decode Stream", 1480, 130)
    nodes["save"] = window.add("Save Video", 1480, 560)
    for source, output, target, entry in links(shots):
        window.connect(nodes[source], output, nodes[target], entry)
    for row, prompt in enumerate(PROMPTS[:shots]):
        window.type_text(nodes[f"text{row}"], prompt)
    for name in ("width", "height"):
        window.type_number(nodes["start"], name, SIDE)
    return nodes


@pytest.mark.parametrize("vue, shots", [(False, 3), (True, 2)], ids=["canvas", "vue"])
def test_shots_by_chaining(site, window, vue, shots):
    nodes = build(window.empty(vue, width=1920, height=1200), shots)
    prompt = window.prompt()
    for source, output, target, entry in links(shots):
        slot = window.page.evaluate(
            "([id, name]) => app.graph.getNodeById(id).outputs.findIndex(slot => slot.name === name)",
            [nodes[source], output],
        )
        assert prompt[nodes[target]]["inputs"][entry] == [nodes[source], slot], (target, entry)
    texts = [prompt[nodes[f"text{row}"]]["inputs"]["text"] for row in range(shots)]
    assert texts == list(PROMPTS[:shots])
    assert [prompt[nodes["start"]]["inputs"][name] for name in ("width", "height")] == [SIDE, SIDE]
    window.shot(f"by-hand-{'vue' if vue else 'canvas'}-built")
    assert window.run().status == 200
    shown = window.wait_for("executed", 120, node=nodes["save"])["output"]
    window.wait_for("execution_success")
    film = window.playing()
    assert (film["state"], film["width"], film["height"]) == (4, SIDE, SIDE)
    assert film["time"] > 0
    assert film["length"] == pytest.approx((1 + 40 * shots) / 16, abs=0.2)
    assert (site.base / "output" / shown["images"][0]["subfolder"] / shown["images"][0]["filename"]).is_file()
    window.shot(f"by-hand-{'vue' if vue else 'canvas'}-done")
    assert window.outside == []
    assert window.errors == []
