"""What ComfyUI's users get: the archive that comfy-cli uploads to the registry."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

# as comfy-cli calls it: the name is the project's
NAME = "sana-video"


def archived() -> list[str]:
    """Files of the checkout less those in .comfyignore; a new file counts before `git add`."""
    ignored = _git("--ignored", "--exclude-from=.comfyignore")
    return sorted(name for name in _git("--exclude-standard") - ignored if (ROOT / name).is_file())


def unpack(folder: Path) -> Path:
    """Copy what the archive would hold to a pack's folder in `folder`."""
    for name in archived():
        target = folder / NAME / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return folder / NAME


def _git(*options: str) -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: comfy-cli archives what git tracks")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", *options]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(listed.split("\0")) - {""}
