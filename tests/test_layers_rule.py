"""The rules of the tree: who imports whom, sizes, the package map, requirements, what importing costs.

Who may import whom inside the pack is in pyproject.toml, as contracts of import-linter.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import tomllib
from importlinter.application import use_cases
from importlinter.configuration import configure

# not from conftest: a folder of tests may have one of its own, under the same name
ROOT = Path(__file__).parents[1]
PACKAGE = "comfyui_sana_video"
SHIPPED = ("kernels", "sana_video_core", "demo", "bridge", "nodes", "standalone", "command_line")
NOT_INSTALLED = ("training", "benchmarks", "workflows")

# What a layer may import from outside; the standard library is free. This isn't a contract, because
# import-linter can forbid packages, but can't list those that are allowed.
OUTSIDE = {
    "kernels": {"torch", "triton"},
    "sana_video_core": {
        *("torch", "safetensors", "transformers", "tokenizers", "sentencepiece"),
        *("av", "numpy", "PIL", "yaml"),
    },
    "demo": {"torch", "safetensors", "transformers", "tokenizers"},
    "bridge": {
        *("torch", "numpy", "PIL"),
        *("comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "protocol"),
    },
    "nodes": {"torch", "comfy_api", "folder_paths"},
    "standalone": {
        *("torch", "numpy", "PIL", "av", "aiohttp", "tqdm"),
        *("comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "server"),
    },
    "command_line": {"torch", "transformers", "av", "PIL", "aiohttp", "tqdm", "folder_paths"},
    "training": {"torch", "numpy", "PIL"},
}


configure()  # import-linter's own command does it, too


def _kept(*contracts: str) -> bool:
    """Whether the contracts of these ids are kept, or all of them; what is broken is printed."""
    return use_cases.lint_imports(
        str(ROOT / "pyproject.toml"), limit_to_contracts=contracts, cache_dir=None, no_logo=True
    )


def test_contracts_of_imports_are_kept(capsys):
    assert _kept(), capsys.readouterr().out


BROKEN = {
    "a layer imports a layer above it": ("layers", "sana_video_core.errors", "bridge.model"),
    "training imports the command line": ("layers", "training.flow", "command_line.files"),
    "a room imports a room above it": ("rooms", "files.atomic", "streaming.state"),
    "a stream imports films": ("rooms", "streaming.state", "films.store"),
    "a room imports its neighbour": ("rooms", "transformer.layers", "vae.layers"),
    "the bottom imports a room": ("rooms", "config", "files.atomic"),
    "a second door to the kernels": ("kernels", "sana_video_core.transformer.layers", "kernels.dispatch"),
    "a command crosses the bridge": ("bridge", "command_line.cli", "bridge.model"),
    "a command loads nodes": ("nodes", "command_line.cli", "nodes.streams"),
    "training runs the stand-in": ("standalone", "training.run", "standalone.engine.graph"),
    "a circle inside a room": ("circles", "sana_video_core.errors", "sana_video_core.config"),
}


@pytest.mark.parametrize("contract, importer, imported", BROKEN.values(), ids=BROKEN)
def test_a_forbidden_import_breaks_its_contract(contract, importer, imported, monkeypatch):
    core = f"{PACKAGE}.sana_video_core" if contract == "rooms" else PACKAGE
    build = grimp.build_graph

    def with_one_more(*names, **options):
        graph = build(*names, **options)
        assert {f"{core}.{importer}", f"{core}.{imported}"} <= graph.modules
        graph.add_import(importer=f"{core}.{importer}", imported=f"{core}.{imported}")
        return graph

    assert _kept(contract)
    monkeypatch.setattr(grimp, "build_graph", with_one_more)
    assert not _kept(contract)


def _strangers(graph: grimp.ImportGraph, layer: str) -> list[str]:
    """Imports from outside that a layer may not make."""
    allowed = {PACKAGE, *OUTSIDE[layer], *sys.stdlib_module_names}
    return [
        f"{module} imports {imported}"
        for module in graph.find_descendants(f"{PACKAGE}.{layer}") | {f"{PACKAGE}.{layer}"}
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.split(".")[0] not in allowed
    ]


def test_layers_import_what_they_may_from_outside():
    graph = grimp.build_graph(PACKAGE, include_external_packages=True, cache_dir=None)
    assert not [import_ for layer in OUTSIDE for import_ in _strangers(graph, layer)]
    graph.add_import(importer=f"{PACKAGE}.kernels.dispatch", imported="comfy")
    assert _strangers(graph, "kernels") == [f"{PACKAGE}.kernels.dispatch imports comfy"]


def _sources(layers=(*SHIPPED, *NOT_INSTALLED)):
    return [path for layer in layers for path in sorted((ROOT / layer).rglob("*.py"))]


def test_files_and_functions_are_small():
    large = []
    for path in _sources():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 300:
            large.append(f"{path}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                and node.end_lineno - node.lineno >= 50
            ):
                large.append(f"{path}: {node.name} has {node.end_lineno - node.lineno + 1} lines")
    assert not large


def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_package_map_lists_every_folder():
    on_disk = {path.parent.relative_to(ROOT) for path in [*_sources(SHIPPED), ROOT / "__init__.py"]}
    names = {".".join((PACKAGE, *folder.parts)) for folder in on_disk}
    assert set(_project()["tool"]["setuptools"]["packages"]) == names


@pytest.mark.filterwarnings("ignore")  # setuptools has opinions about licences
def test_what_is_no_code_is_installed_too(monkeypatch, tmp_path):
    """As setuptools collects it: the demo set, the help pages, the workflows and the blueprints."""
    dist = pytest.importorskip("setuptools").Distribution()
    monkeypatch.chdir(ROOT)
    dist.parse_config_files(["pyproject.toml"])
    dist.include_package_data = False  # it would look for more by writing a list of files into the checkout
    command = dist.get_command_obj("build_py")
    command.build_lib = str(tmp_path)
    command.ensure_finalized()
    collected = {
        Path(folder, name).as_posix() for _, folder, _, names in command.data_files for name in names
    }
    folders = ("demo/*.safetensors", "demo/demo_text/*", "web/*.js", "web/docs/*.md", "workflows/*.json")
    folders += ("web/docs/pictures/*.webp", "subgraphs/*.json", "locales/*/*.json", "web/docs/*/*.md")
    for pattern in folders:
        required = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
        assert required
        assert required <= collected
    assert not any(name.startswith(("tests", "training", "benchmarks")) for name in collected)


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
