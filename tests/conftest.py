"""Imports the checkout the way ComfyUI does: by path, as one package, whatever the folder is called."""

import gc
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest

# The models of the tests are tiny: more threads only wait for each other, and on a busy machine for long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if not Path("/dev/nvidiactl").exists():  # Triton looks at it once, when somebody imports it
    os.environ.setdefault("TRITON_INTERPRET", "1")

# a second conftest would hide this one from `import conftest`; the tests of a GPU also run where there is no
# browser
pytest_plugins = [
    "support.floor",
    "support.queue",
    "support.which_comfyui",
    *(["support.windows"] if importlib.util.find_spec("playwright") else []),
]
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "comfyui_sana_video"


def command_line(*words) -> list[str]:
    """The pack's command line as a process of its own, from this checkout."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest;"
        f"from {PACKAGE}.command_line.cli import main; sys.exit(main())"
    )
    return [sys.executable, "-c", code, *map(str, words)]


def load_checkout(name: str, root: Path):
    """Register the folder `root` as the package `name` and return it."""
    spec = importlib.util.spec_from_file_location(
        name, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if PACKAGE not in sys.modules:
    load_checkout(PACKAGE, ROOT)


# Where there is no ComfyUI in this process, the fake one is imported in its place.
importlib.import_module(f"{PACKAGE}.standalone").use_fake_comfy()


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the campaigns of tests/torture whole, in minutes")


def pytest_collection_finish():
    """Garbage collections look at what the tests make, not at every module that they import."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # nanobind looks at what is left when Python ends


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One real ComfyUI for all tests, with previews on, as an artist's page asks for them."""
    comfyui = importlib.import_module("support.comfyui")
    with comfyui.running(tmp_path_factory.mktemp("comfyui"), "--preview-method", "latent2rgb") as comfy:
        yield comfy


@pytest.fixture(scope="session")
def toy_classes():
    """Toy nodes by class name, loaded with the fake ComfyUI; a real one loads the same folder as a pack."""
    toy = importlib.import_module("support.toy")
    by_id = importlib.import_module(f"{PACKAGE}.standalone.engine.graph").by_id
    nodes = [toy.Start, toy.Block, toy.Show, toy.Lazy, toy.Checked, toy.Blocks, toy.Own, toy.Fails]
    return by_id(nodes, "custom_nodes.toy")
