"""The help pages: their parts, their pictures, where their links lead, and what they say of a bypass."""

import re
from pathlib import Path

import pytest
from comfyui_sana_video.nodes import NODES
from PIL import Image
from support.artist import NAMED

PAGES = Path(__file__).parents[2] / "web" / "docs"
LIMIT = 40_000  # bytes of a picture
QUESTIONS = ["How do I continue?", "Why did the picture change?", "Why is it slow?"]
PARTS = ["Inputs", "Outputs", *QUESTIONS, "Bypass, don't mute", "Good to know", "See also"]


@pytest.fixture(params=NAMED)
def name(request):
    return request.param


def page(name):
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def parts(name):
    """The text of each part, by its heading."""
    found = re.split(r"^## (.+)\n", page(name), flags=re.M)
    return dict(zip(found[1::2], found[2::2], strict=True))


def links(name):
    """(text, target) of the links to other files."""
    found = re.findall(r"(?<!!)\[([^\]]+)\]\(([^)]+)\)", page(name))
    return [(text, target) for text, target in found if "://" not in target]


def test_a_page_has_its_parts_in_order(name):
    assert list(parts(name)) == [part for part in PARTS if part in parts(name)]
    assert "See also" in parts(name)


def test_a_page_shows_its_node_before_anything_else(name):
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page(name).split("## Inputs")[0])
    # the panel resolves it from docs/, in every language, and GitHub from the page
    assert [target for _, target in shown] == [f"pictures/{name}.webp"]
    file = PAGES / shown[0][1]
    assert file.stat().st_size <= LIMIT
    with Image.open(file) as picture:
        picture.load()
        assert picture.format == "WEBP"
        assert picture.width >= 600  # twice the pixels of a node, to be sharp


def test_every_picture_is_shown():
    assert {path.stem for path in (PAGES / "pictures").iterdir()} == set(NAMED)


def test_links_lead_to_pages_and_back(name):
    """Whoever follows one in the panel comes back by a link: there is no button."""
    assert links(name)
    for text, target in links(name):
        other = target.removesuffix(".md")
        assert other in set(NAMED) - {name}
        assert text == NAMED[other].GET_SCHEMA().display_name
        assert f"{name}.md" in [back for _, back in links(other)]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_a_page_says_what_a_bypass_passes_on(node):
    """The page takes a bypassed node's output from an input of its type."""
    info = node.GET_NODE_INFO_V1()
    entries = {**info["input"].get("required", {}), **info["input"].get("optional", {})}.values()
    taken = {kind for entry in entries if isinstance(entry[0], str) for kind in entry[0].split(",")}
    taken -= {"INT", "FLOAT", "STRING"}  # widgets pass on only what is connected to them
    outputs = zip(info["output_name"], info["output"], strict=True)
    passed = [output for output, kind in outputs if kind in taken]
    said = parts(node.__name__).get("Bypass, don't mute", "")
    assert bool(said) == bool(passed)
    assert [output for output in passed if f"*{output}*" not in said] == []
    assert said.count("Ctrl+B") == said.count("Ctrl+M") == len(passed[:1])
