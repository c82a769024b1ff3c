"""The rules of the tree: import directions, the package map, requirements, and what importing costs."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

# not from conftest: a folder of tests may have one of its own, under the same name
ROOT = Path(__file__).parents[1]

# layer -> the layers of this pack that it may import, besides itself
ALLOWED = {
    "kernels": set(),
    "sana_video_core": {"kernels"},
    "bridge": {"sana_video_core"},
    "nodes": {"bridge", "sana_video_core"},
    "standalone": {"nodes", "sana_video_core"},
    "command_line": {"standalone", "sana_video_core"},
    "training": {"sana_video_core"},
}
NOT_INSTALLED = {"training"}
# what a layer may import from outside; the standard library is free
OUTSIDE = {
    "kernels": {"torch", "triton"},
    "sana_video_core": {
        *("torch", "safetensors", "transformers", "tokenizers", "sentencepiece"),
        *("av", "numpy", "PIL", "yaml"),
    },
    "bridge": {"torch", "numpy", "PIL", "comfy", "latent_preview"},
    "nodes": {"torch", "comfy_api", "folder_paths"},
    "standalone": {"torch", "numpy", "PIL", "av", "aiohttp", "tqdm", "comfy", "comfy_api", "folder_paths"},
    "command_line": {"torch", "tqdm", "transformers"},
    "training": {"torch", "numpy", "PIL"},
}
# run by path: they import the pack by its name, as tests do
SCRIPTS = {"training/run.py", "training/previews.py"}
ONE_DOOR = "sana_video_core/transformer/ops.py"


def _sources(layers=tuple(ALLOWED)):
    return [path for layer in layers for path in sorted((ROOT / layer).rglob("*.py"))]


def _name(path):
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path):
    """(layer or None, top-level module) of every import in a file, relative ones resolved."""
    place = path.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield None, node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            above = place[: len(place) - node.level]
            yield (*above, *(node.module or "").split("."))[0], ""


@pytest.mark.parametrize("path", [path for path in _sources() if _name(path) not in SCRIPTS], ids=_name)
def test_imports_point_down(path):
    layer = path.relative_to(ROOT).parts[0]
    for inside, outside in _imports(path):
        if inside is None:
            assert outside in OUTSIDE[layer] | set(sys.stdlib_module_names), f"{path} imports {outside}"
        else:
            assert inside == layer or inside in ALLOWED[layer], f"{path} imports {inside}"
            if layer == "sana_video_core" and inside == "kernels":
                assert _name(path) == ONE_DOOR


def test_the_rule_sees_a_forbidden_import(tmp_path, monkeypatch):
    """The resolver of relative imports, on files that break the rule."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    bad = tmp_path / "kernels" / "deep" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("from ...sana_video_core.model import SanaVideo\nimport comfy.utils\n")
    assert set(_imports(bad)) == {("sana_video_core", ""), (None, "comfy")}
    with pytest.raises(AssertionError):
        test_imports_point_down(bad)


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_files_and_functions_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 50, f"{node.name} in {path}"


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_package_map_lists_every_folder():
    installed = _sources([layer for layer in ALLOWED if layer not in NOT_INSTALLED])
    on_disk = {path.parent.relative_to(ROOT) for path in [*installed, ROOT / "__init__.py"]}
    names = {".".join(("comfyui_sana_video", *folder.parts)) for folder in on_disk}
    assert set(_project()["tool"]["setuptools"]["packages"]) == names


@pytest.mark.filterwarnings("ignore")  # setuptools has opinions about licences
def test_what_is_no_code_is_installed_too(monkeypatch, tmp_path):
    """As setuptools collects it: the demo set, the help pages and the workflows."""
    dist = pytest.importorskip("setuptools").Distribution()
    monkeypatch.chdir(ROOT)
    dist.parse_config_files(["pyproject.toml"])
    dist.include_package_data = False  # it would look for more by writing a list of files into the checkout
    command = dist.get_command_obj("build_py")
    command.build_lib = str(tmp_path)
    command.ensure_finalized()
    found = {os.path.relpath(name) for *_, names in command.data_files for name in names}
    for pattern in ("demo/**/*", "web/docs/*.md", "workflows/*.json"):
        wanted = {os.path.relpath(path) for path in ROOT.glob(pattern) if path.is_file()}
        assert wanted
        assert wanted <= found
    assert not any(name.startswith(("tests", "training", "benchmarks")) for name in found)


def test_requirements_repeat_the_dependencies_without_torch():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    assert listed == set(_project()["project"]["dependencies"])
    assert not any(re.match(r"torch\b", line) for line in listed)


@pytest.mark.parametrize("module", ["", ".command_line.cli"])
def test_importing_the_root_or_the_command_line_imports_no_torch(module):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest, importlib;"
        "importlib.import_module('comfyui_sana_video' + sys.argv[2]);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy', 'av')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "tests"), module], check=False)
    assert done.returncode == 0
