"""“Three shots by chaining” as an artist builds it: nodes from the search box, links by mouse, words typed,
Run clicked.
"""

import pytest

PROMPTS = (
    "a red ball moves right over a blue floor",
    "a red ball turns yellow and moves in a circle over a blue floor",
    "a yellow ball grows over a blue floor",
)
SIDE = 64  # pixels: whether it can be built and runs is asked, not what it shows
ROWS = (130, 480, 830)
LINKS = (
    *(("model", "model", to, "model") for to in ("start", "shot0", "shot1", "shot2")),
    *(("encoder", "text_encoder", f"text{i}", "text_encoder") for i in range(3)),
    *((f"text{i}", "conditioning", f"shot{i}", "positive") for i in range(3)),
    ("start", "state", "shot0", "state"),
    ("shot0", "state", "shot1", "state"),
    ("shot1", "state", "shot2", "state"),
    ("vae", "vae", "film", "vae"),
    ("shot2", "state", "film", "state"),
    ("film", "video", "save", "video"),
)


def build(window):
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
    for row, y in enumerate(ROWS):
        nodes[f"text{row}"] = window.add("SANA-Video Text Encode", 680, y)
        nodes[f"shot{row}"] = window.add("SANA-Video Block Sampler", 1110, y)
    nodes["film"] = window.add("SANA-Video Decode Stream", 1480, 130)
    nodes["save"] = window.add("Save Video", 1480, 560)
    for source, output, target, entry in LINKS:
        window.connect(nodes[source], output, nodes[target], entry)
    for row, prompt in enumerate(PROMPTS):
        window.type_text(nodes[f"text{row}"], prompt)
    for name in ("width", "height"):
        window.type_number(nodes["start"], name, SIDE)
    return nodes


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_three_shots_by_chaining(site, window, vue):
    import time
    t = time.time()
    nodes = build(window.empty(vue, width=1920, height=1200))
    print("BUILT", time.time() - t)
    prompt = window.prompt()
    for source, output, target, entry in LINKS:
        slot = window.page.evaluate(
            "([id, name]) => app.graph.getNodeById(id).outputs.findIndex(slot => slot.name === name)",
            [nodes[source], output],
        )
        assert prompt[nodes[target]]["inputs"][entry] == [nodes[source], slot], (target, entry)
    assert [prompt[nodes[f"text{row}"]]["inputs"]["text"] for row in range(3)] == list(PROMPTS)
    assert [prompt[nodes["start"]]["inputs"][name] for name in ("width", "height")] == [SIDE, SIDE]
    window.shot(f"by-hand-{'vue' if vue else 'canvas'}-built")
    assert window.run().status == 200
    shown = window.wait_for("executed", 120, node=nodes["save"])["output"]
    window.wait_for("execution_success")
    print("RUN", time.time() - t)
    film = window.playing()
    assert (film["state"], film["width"], film["height"]) == (4, SIDE, SIDE)
    assert film["time"] > 0
    assert film["length"] == pytest.approx(121 / 16, abs=0.2)
    assert (site.base / "output" / shown["images"][0]["subfolder"] / shown["images"][0]["filename"]).is_file()
    window.shot(f"by-hand-{'vue' if vue else 'canvas'}-done")
    assert window.outside == []
    assert window.errors == []
