"""The registry's archive: what ComfyUI's users get loads without the folders that stay out of it."""

import asyncio
import importlib
import os
import pkgutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, load_checkout
from support.archive import archived, unpack

OUT = ("benchmarks", "command_line", "docs", "standalone", "tests", "training")


def test_the_archive_holds_what_artists_use_and_no_server():
    names = archived()
    folders = {name.split("/")[0] for name in names}
    assert not folders & {*OUT, ".github", ".ci", "Makefile"}
    needed = {
        "bridge",
        "demo",
        "kernels",
        "locales",
        "nodes",
        "sana_video_core",
        "subgraphs",
        "web",
        "workflows",
    }
    assert needed <= folders
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md"} <= set(names)
    assert {"web/docs/SanaVideoStart.md", "web/docs/pictures/SanaVideoStart.webp"} <= set(names)
    assert {"web/state_colour.js", "web/help.js"} <= set(names)
    assert sum(name.startswith("workflows/SANA-Video ") for name in names) == 26  # with their pictures
    assert {"subgraphs/SANA-Video shot.json", "subgraphs/SANA-Video film.json"} <= set(names)
    assert "workflows/00_without_downloads.json" not in names  # the page would list the demo twice
    assert not [name for name in names if name.startswith("workflows/") and name.endswith(".py")]


def test_every_name_reaches_the_archive():
    """comfy-cli takes the lines of `git ls-files`, and drops what is no file: names that git quotes."""
    publish = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))
    settings = {name: str(value) for name, value in publish["jobs"]["publish"]["env"].items()}
    command = ["git", "-C", str(ROOT), "ls-files", "workflows", "subgraphs"]
    listed = subprocess.run(command, env=os.environ | settings, check=True, capture_output=True, text=True)
    assert not [name for name in listed.stdout.splitlines() if not (ROOT / name).is_file()]


@pytest.fixture
def pack(tmp_path):
    """The unpacked archive, loaded as ComfyUI loads a pack."""
    yield load_checkout("archived", unpack(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "archived"]:
        del sys.modules[name]


def test_the_archive_loads_alone(pack):
    """Every module of it; imports inside functions point down, too, as import-linter sees to."""
    for module in pkgutil.walk_packages(pack.__path__, "archived."):
        if not module.name.endswith(".triton_kernel"):  # needs Triton, which is loaded on demand
            importlib.import_module(module.name)
    extension = asyncio.run(pack.comfy_entrypoint())
    ids = {node.define_schema().node_id for node in asyncio.run(extension.get_node_list())}
    assert "SanaVideoBlockSampler" in ids
    assert all(node_id.startswith("SanaVideo") for node_id in ids)
