"""What every node has (a permanent id, text for an artist, a matching help page), and what none may have."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_sana_video.nodes import NODES, SanaVideoExtension
from support.artist import NAMED

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "web" / "docs"
SOURCES = sorted((ROOT / "nodes").glob("*.py"))
ADVANCED = {
    "kernels",
    "precision",
    "steps",
    "sampler",
    "instruction",
    "codec",
    "store",
    "batch_row",
    "grid",
    "rule",
    "window",
    "motion_score",
    "shift",
    "guidance",
    "vae_device",
    "overlap",
    "any_machine",
}
BODY_LINES = 15

# What ComfyUI 0.29 knows, the oldest that we run in. Look into that version's comfy_api/latest/_io.py before
# you add a name.
SCHEMA_KEYWORDS = {
    *("node_id", "display_name", "description", "category", "inputs", "outputs", "hidden"),
    *("search_aliases", "is_output_node", "is_input_list", "not_idempotent", "enable_expand"),
}
INPUT_KEYWORDS = {
    *("id", "optional", "tooltip", "lazy", "default", "min", "max", "step", "round", "options", "types"),
    *("multiline", "placeholder", "dynamic_prompts", "control_after_generate", "advanced"),
    *("label_on", "label_off", "display_name", "force_input", "socketless"),
}
OUTPUT_KEYWORDS = {"id", "display_name", "tooltip", "is_output_list"}
IO_NAMES = {
    *("ComfyNode", "Schema", "NodeOutput", "Custom", "MultiType", "FolderType", "ControlAfterGenerate"),
    *("Combo", "Int", "Float", "String", "Boolean"),
    *("Model", "Clip", "Vae", "Conditioning", "Latent", "Image", "Video", "Audio", "Sigmas", "Noise"),
}


@pytest.fixture(params=NODES, ids=lambda node: node.__name__)
def schema(request):
    return request.param.GET_SCHEMA()


# --- ids and texts


def test_ids_are_unique_and_ours():
    ids = [node.GET_SCHEMA().node_id for node in NODES]
    assert len(set(ids)) == len(ids) == len(NAMED)
    assert all(name.startswith("SanaVideo") for name in ids)
    assert ids == [node.__name__ for node in NODES]


def test_the_extension_gives_the_list():
    import asyncio

    assert asyncio.run(SanaVideoExtension().get_node_list()) == NODES


def test_a_node_can_be_searched_and_is_explained(schema):
    assert re.fullmatch(r"SANA-Video/[a-z]+", schema.category)
    assert schema.display_name
    assert "SANA-Video" in schema.display_name
    assert schema.description.endswith(".")
    assert len(set(schema.search_aliases)) >= 2
    for socket in (*schema.inputs, *schema.outputs):
        assert len(socket.tooltip or "") > 10, socket.id or socket.display_name


def test_display_names_are_unique():
    names = [node.GET_SCHEMA().display_name for node in NODES]
    assert len(set(names)) == len(names)


# --- help pages


def _tables(page: str) -> tuple[list[str], list[str]]:
    """The first columns of the tables under Inputs and Outputs. Fails for a page of another form."""
    parts = re.split(r"^## (.+)\n", page, flags=re.M)
    assert parts[1:5:2] == ["Inputs", "Outputs"], parts[1::2]
    columns = []
    for title, body in zip(parts[1:5:2], parts[2:5:2], strict=True):
        lines = [line for line in body.splitlines() if line.strip()]
        head = title.lower().removesuffix("s")
        assert lines[:2] == [f"| {head} | what it is |", "|---|---|"]
        rows = [re.fullmatch(r"\| (\w+) \| (\S.*) \|", line) for line in lines[2:]]
        assert all(rows), f"a line under {title} isn't a row: {lines}"
        columns.append([row[1] for row in rows])
    return columns[0], columns[1]


def test_the_help_page_lists_what_the_node_has_in_order(schema):
    inputs, outputs = _tables((PAGES / f"{schema.node_id}.md").read_text(encoding="utf-8"))
    assert inputs == [socket.id for socket in schema.inputs]
    assert outputs == [socket.display_name for socket in schema.outputs]


def test_every_help_page_has_a_node():
    assert {path.name for path in PAGES.glob("*.md")} == {f"{name}.md" for name in NAMED}


def test_the_page_reader_sees_what_is_wrong():
    good = (
        "# A\n\nB.\n\n## Inputs\n\n| input | what it is |\n|---|---|\n| a | b |\n"
        "\n## Outputs\n\n| output | what it is |\n|---|---|\n| c | d |\n"
    )
    assert _tables(good) == (["a"], ["c"])
    for old, new in (
        ("| a | b |", "| a | |"),
        ("## Outputs", "## Results"),
        ("| c | d |", "| c | d |\n\nMore."),
    ):
        with pytest.raises(AssertionError):
            _tables(good.replace(old, new))


# --- widgets


def test_what_few_people_change_is_advanced():
    marked = {
        entry.id for node in NODES for entry in node.GET_SCHEMA().inputs if entry.as_dict().get("advanced")
    }
    named = {entry.id for node in NODES for entry in node.GET_SCHEMA().inputs if entry.id in ADVANCED}
    assert named == ADVANCED
    # how clips are sampled is the point of Sigmas, steps are what everybody knows of a sampler, and how much
    # moves is said where one prompt is written
    unmarked = {
        (node.__name__, entry.id)
        for node in NODES
        for entry in node.GET_SCHEMA().inputs
        if entry.id in ADVANCED and not entry.as_dict().get("advanced")
    }
    assert marked == ADVANCED
    assert unmarked == {
        ("SanaVideoSigmas", "steps"),
        ("SanaVideoSigmas", "shift"),
        ("SanaVideoSampler", "steps"),
        ("SanaVideoTextEncode", "motion_score"),
    }


def test_defaults_lie_in_their_range(schema):
    for entry in schema.inputs:
        options = entry.as_dict()
        if entry.io_type in ("INT", "FLOAT"):
            assert options["min"] <= options["default"] <= options["max"], entry.id
        elif entry.io_type == "COMBO" and "default" in options:
            assert options["default"] in options["options"]
        elif entry.io_type in ("BOOLEAN",):
            assert isinstance(options["default"], bool)


def test_a_seed_has_the_control_that_artists_know():
    seed = next(e for e in NAMED["SanaVideoBlockSampler"].GET_SCHEMA().inputs if e.id == "seed").as_dict()
    assert seed["control_after_generate"] is True
    assert (seed["min"], seed["max"]) == (0, 2**64 - 1)


def test_a_film_s_seed_stays_after_a_run():
    """With another one, no chunk of the edited film would be in the store."""
    for name in ("SanaVideoScript", "SanaVideoLongVideo"):
        seed = next(e for e in NAMED[name].GET_SCHEMA().inputs if e.id == "seed").as_dict()
        assert seed["control_after_generate"] == "fixed"


# --- sources


def _calls():
    """(file, what is called, names of its keywords) of all calls in nodes/."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path.name, ast.unparse(node.func), {k.arg for k in node.keywords if k.arg}


def test_nothing_newer_than_comfyui_0_23_is_used():
    seen = set()
    for file, called, keywords in _calls():
        allowed = (
            SCHEMA_KEYWORDS
            if called in ("schema", "io.Schema")
            else INPUT_KEYWORDS
            if called.endswith(".Input")
            else OUTPUT_KEYWORDS
            if called.endswith(".Output")
            else None
        )
        if allowed is not None:
            seen.add(called)
            assert keywords <= allowed, f"{file}: {called} with {sorted(keywords - allowed)}"
    assert {"schema", "io.Int.Input", "State.Output", "io.Vae.Input", "io.Schema"} <= seen


def test_only_known_names_of_the_api_are_used():
    used = set()
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"\bio\.(\w+)", text))
        for names in re.findall(r"^from comfy_api\.latest import (.+)$", text, re.M):
            assert set(names.split(", ")) <= {"io", "ui", "ComfyExtension", "InputImpl"}, path.name
    assert used <= IO_NAMES, used - IO_NAMES


def test_execute_bodies_are_short():
    counted = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "execute":
                counted += 1
                assert node.end_lineno - node.body[0].lineno < BODY_LINES, f"{path.name}:{node.lineno}"
    assert counted == len(NODES)


def test_nodes_are_a_thin_layer():
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES) < 1300
    assert len(SOURCES) == len(list((ROOT / "nodes").rglob("*.py")))


def _at_import(tree: ast.AST):
    """Import statements that run when a file is imported, without those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _at_import(node)


def _imported(text: str) -> set[str]:
    """What a source imports at once: torch, bridge, a module of the core …"""
    names = set()
    for node in _at_import(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        else:
            names |= {(node.module or alias.name).split(".")[0] for alias in node.names}
    return names


def test_importing_a_node_imports_neither_torch_nor_the_bridge():
    for path in SOURCES:
        names = _imported(path.read_text(encoding="utf-8"))
        assert not names & {"torch", "bridge", "comfy", "numpy", "av"}, path.name


def test_the_rule_sees_imports_of_every_shape():
    for text in (
        "import torch.nn",
        "from torch import nn",
        "if True:\n    import torch",
        "class A:\n    import torch",
        "try:\n    import torch\nexcept ImportError:\n    pass",
    ):
        assert _imported(text) == {"torch"}, text
    assert _imported("from ..bridge.model import load") == _imported("from .. import bridge") == {"bridge"}
    assert (
        _imported("def f():\n    import torch") == _imported("if TYPE_CHECKING:\n    import torch") == set()
    )


CODE = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest, importlib
import comfy_api.latest, folder_paths  # the fake ComfyUI's, which imports torch itself
for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "numpy", "av", "PIL")]:
    del sys.modules[name]

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "av", "PIL", "transformers", "safetensors", "comfy"):
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Refuse())
nodes = importlib.import_module("comfyui_sana_video.nodes")
assert len([node.GET_NODE_INFO_V1() for node in nodes.NODES]) == int(sys.argv[2])
print(*sorted(name.removeprefix("comfyui_sana_video.") for name in sys.modules if "sana_video" in name))
"""


LIGHT = ("config", "errors", "shapes", "sizes", "files", "files.places", "files.weight_names")


def test_importing_the_nodes_imports_no_model():
    """Schemas included: ComfyUI asks every installed pack for them when it starts."""
    command = [sys.executable, "-c", CODE, str(ROOT / "tests"), str(len(NODES))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = {name for name in done.stdout.split() if name.startswith(("sana_video_core.", "bridge"))}
    assert imported == {f"sana_video_core.{name}" for name in LIGHT}
