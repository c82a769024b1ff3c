"""A stream's path through a graph has a colour of its own, whoever draws the nodes, on every palette."""

import json

import numpy as np
import pytest
from comfyui_sana_video.workflows.build import NAMES
from PIL import Image
from support.sites import ROOT

COLOUR = np.array((0x00, 0xBF, 0xA5))
PALETTE = "Comfy.ColorPalette"


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_the_streams_path_is_seen(window, vue):
    """Also after the palette was changed, for which the page empties what the new one does not name."""
    window.empty(vue=vue)
    window.load(json.loads((ROOT / "workflows" / f"{NAMES['1']}.json").read_text(encoding="utf-8")))
    window.fit()
    for palette in ("light", "dark"):
        window.set(PALETTE, palette)
    window.page.wait_for_timeout(300)
    picture = np.asarray(Image.open(window.shot(f"stream-{'vue' if vue else 'canvas'}")).convert("RGB"))
    ours = (np.abs(picture.astype(int) - COLOUR) <= 12).all(-1)
    sampler = next(str(node["id"]) for node in window.widgets() if node["type"] == "SanaVideoBlockSampler")
    slots = [("inputs", "state"), ("outputs", "state"), ("inputs", "model"), ("outputs", "latent")]
    dots = [[round(place) for place in window._slot(sampler, *slot)] for slot in slots]
    assert [bool(ours[y, x]) for x, y in dots] == [True, True, False, False]
    assert ours.sum() > 120  # the links


def test_a_palette_that_names_the_type_counts(window):
    tables = "[app.canvas.default_connection_color_byType, app.canvas.constructor.link_type_colors]"
    change = f"value => {tables}.map(table => {{ table.SANA_STATE = value; return table.SANA_STATE }})"
    assert window.page.evaluate(change, "#123456") == ["#123456"] * 2
    assert window.page.evaluate(change, "") == ["#00BFA5"] * 2
