"""A film from a script as an artist makes it, from the empty canvas: built, run, a line edited, run again."""

import pytest

FIRST, SECOND, OTHER, THIRD = (
    "a red ball moves right over a {} floor",
    "a red ball turns yellow and moves in a circle over a {} floor",
    "a yellow ball shrinks over a {} floor",
    "a green star spins over a {} floor",
)


def script(second, floor):
    """Three chunks in two scenes."""
    lines = f"0:00 {FIRST}", f"0:02.5 {second}", f"0:05 cut: {THIRD}", "0:07.5 end"
    return "\n".join(lines).format(*[floor] * 3)


SIDE = 32  # pixels: what is asked is the way, not the picture
LOADERS = {
    "model": "Load SANA-Video Model",
    "text_encoder": "Load SANA-Video Text Encoder",
    "vae": "Load SANA-Video VAE",
}


def build(window):
    """The film node's id. Four boxes: it is an output node, and shows its film."""
    nodes = {name: window.add(title, 260, 150 + 250 * i) for i, (name, title) in enumerate(LOADERS.items())}
    film = window.add("SANA-Video Film", 800, 150)
    for name, loader in nodes.items():
        window.connect(loader, name, film, name)
    return film


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_a_film_is_built_run_edited_and_run_again(site, window, vue):
    """The second run is the server's and the node's: one renderer shows it."""
    kind = "vue" if vue else "canvas"
    film = build(window.empty(vue, width=1600, height=1200))
    floor = "grey" if vue else "blue"  # two films, of which none has been made before
    window.type_text(film, script(SECOND, floor), "script")
    for name in ("width", "height"):
        window.type_number(film, name, SIDE)
    window.shot(f"film-{kind}-built")
    assert window.run().status == 200
    window.wait_for_step(6)
    window.page.wait_for_timeout(300)
    window.shot(f"film-{kind}-running")
    shown = window.wait_for("executed", node=film)["output"]
    window.wait_for("execution_success")
    seen = window.playing()
    assert (seen["state"], seen["width"], seen["height"]) == (4, SIDE, SIDE)
    assert seen["length"] == pytest.approx((2 + 40 * 3) / 16, abs=0.2)
    left = window.page.evaluate("id => app.graph.getNodeById(id).widgets.map(widget => widget.name)", film)
    assert "$$canvas-image-preview" not in left  # an empty room above the film
    assert window.words(film).startswith("3 chunks · 2 scenes")
    assert "from the store" not in window.words(film)
    assert (site.base / "output" / shown["images"][0]["subfolder"] / shown["images"][0]["filename"]).is_file()
    window.shot(f"film-{kind}-done")
    if not vue:
        window.type_text(film, script(OTHER, floor), "script")
        assert window.run().status == 200
        window.wait_for("execution_success")
        window.page.wait_for_timeout(300)
        assert "2 of 3 chunks are from the store." in window.words(film)
        window.shot(f"film-{kind}-edited")
    assert window.outside == []
    assert window.errors == []
