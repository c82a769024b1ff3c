"""Killed at any moment, nothing leaves half a file under its name, and the next writer tidies up.

`python -m pytest tests/torture --full -s` kills 210 processes in some minutes; the suite kills two.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

if os.name != "posix":
    pytest.skip("kills as POSIX does", allow_module_level=True)

from killed import KINDS, check_set, check_whole
from support.forks import begin

TIMES = {"generate": 40, "run": 40, "studio": 40, "states": 50, "convert": 30, "make_demo": 10}
SHORT = {"studio": 1, "states": 1}


def pytest_generate_tests(metafunc):
    times = TIMES if metafunc.config.getoption("--full") else SHORT
    metafunc.parametrize("kind, seed", [(kind, seed) for kind in times for seed in range(times[kind])])


def duration(kind, folder, known={}):  # noqa: B006  measured once
    """How long it takes if nobody kills it, in seconds."""
    if kind not in known:
        began = time.monotonic()
        assert os.waitpid(begin(KINDS[kind][0], folder), 0)[1] == 0, kind
        known[kind] = time.monotonic() - began
    return known[kind]


def hidden(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def check(folder):
    """Every file under a final name is whole."""
    for path in folder.rglob("*"):
        seen = not any(part.startswith(".") for part in path.relative_to(folder).parts)
        if seen and path.is_file() and path.parent.name not in ("set", "demo_text"):
            check_whole(path)
    check_set(folder / "set")


def test_a_kill_breaks_nothing_and_leaves_nothing(kind, seed, tmp_path, monkeypatch):
    work, after = KINDS[kind]
    wait = random.Random(f"{kind} {seed}").uniform(0, 1.05) * duration(kind, tmp_path / "whole")
    folder = tmp_path / "killed"
    child = begin(work, folder)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    left = hidden(folder)
    print(f"{kind} seed {seed}: {wait:.3f} s, {len(left)} hidden, {'ended' if status == 0 else 'killed'}")  # noqa: T201
    check(folder)
    monkeypatch.chdir(folder)
    after()
    check(folder)
    assert not hidden(folder), left
    assert not Path("temp").exists()
