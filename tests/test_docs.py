"""What README and docs/ say is there: files, workflows, the demo's script, options."""

import argparse
import re
from urllib.parse import unquote

import pytest
from comfyui_sana_video.command_line.options import add_film
from comfyui_sana_video.workflows.build import NAMES
from support.pack import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def read(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\((?:<([^>]+)>|([^)\s]+))\)", read(page))
    local = {bracketed or plain for bracketed, plain in links}
    files = {unquote(link.split("#")[0]) for link in local if not re.match(r"https?:|#", link)}
    assert [file for file in files if not (page.parent / file).exists()] == []
    assert files or page.name not in ("README.md", "ARCHITECTURE.md")


def test_readme_lists_every_workflow():
    listed = re.findall(r"\(<workflows/(SANA-Video .*)\.json>\)", read(ROOT / "README.md"))
    assert sorted(listed) == list(NAMES.values())  # the table goes by what people want


def test_the_gallery_shows_every_workflow():
    shown = re.findall(r"<\.\./workflows/(SANA-Video [^>]*)\.(json|jpg)>", read(ROOT / "docs" / "gallery.md"))
    assert shown == [(name, kind) for name in NAMES.values() for kind in ("json", "jpg")]


def test_readme_shows_the_demos_script():
    comment, script = read(ROOT / "demo" / "film.txt").split("\n", 1)
    assert comment.startswith("#")
    assert f"```\n{script}```" in read(ROOT / "README.md")


def test_every_option_of_film_is_described():
    parser = argparse.ArgumentParser()
    add_film(parser)
    options = {name for action in parser._actions for name in action.option_strings} - {"-h", "--help"}
    page = read(ROOT / "docs" / "command_line.md")
    part = page[page.index("## film:") : page.index("## generate:")]
    table = "".join(line.split(" | ")[0] for line in part.splitlines() if line.startswith("| "))
    assert set(re.findall(r"--[a-z-]+", table)) == options
