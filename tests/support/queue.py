"""The queue of `make test`: the slowest begins first, what shares a browser or server stays together."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# One worker runs all of a folder: it starts one browser, one studio, one ComfyUI.
FOLDERS = ("tests/browser", "tests/comfy")
# Whatever begins last decides when all is done. The rest takes less than ten seconds each.
SLOWEST = (
    "tests/comfy",
    "tests/browser",
    "tests/demo/test_generates.py",
    "tests/kernels/test_compiled.py",  # where a kernel or Triton is new
    "tests/command_line/test_cli.py",
    "tests/test_mutations.py",
    "tests/kernels/test_triton.py",
    "tests/kernels/test_trial.py",
    "tests/core/vae/test_tiling.py",
    "tests/standalone/studio/test_serve.py",
    "tests/training/test_measures.py",
    "tests/core/files/test_video_interrupts.py",
    "tests/training/test_training_run.py",
    "tests/nodes/test_decode_nodes.py",
)
assert all((ROOT / name).exists() for name in SLOWEST), "the queue names what is not there"


def unit(nodeid: str) -> str:
    """The file or folder that one worker runs as a whole."""
    file = nodeid.split("::", 1)[0]
    return next((folder for folder in FOLDERS if file.startswith(folder + "/")), file)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    places = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(unit(item.nodeid), len(places)))


@pytest.hookimpl(optionalhook=True)  # there is none without xdist
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Queue(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return unit(nodeid)

    config.option.loadscopereorder = False  # by number of tests, it would be
    return Queue(config, log)
