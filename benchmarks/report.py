"""What was measured, with all that a number needs to mean something, as a file under benchmarks/results/."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write(folder: Path | None, name: str, found: dict[str, Any]) -> None:
    """folder/NAME_GPU.json. The cases of an earlier file of the same code, GPU and versions stay, so that long runs can be cut."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}_{gpu()}.json"
    origin = {"gpu": torch.cuda.get_device_name(), **_versions(), "code": code()}
    earlier = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    if "cases" in found and origin.items() <= earlier.items():
        found = {**found, "cases": {**earlier["cases"], **found["cases"]}}
    target.write_text(_short(json.dumps(origin | _rounded(found), indent=1)) + "\n", encoding="utf-8")


def gpu() -> str:
    """A name for files: h100, rtx_4090."""
    name = re.sub(r"^(nvidia|amd) |geforce |radeon | \d+gb.*$", "", torch.cuda.get_device_name().lower())
    return re.sub(r"\W+", "_", name)


def code() -> str:
    """Of the network's and the kernels' sources: tells whether a number is of this code, also where there is no git."""
    digest = hashlib.sha256()
    for path in sorted(
        path for part in ("kernels", "sana_video_core") for path in (ROOT / part).rglob("*.py")
    ):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "triton", "diffusers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _rounded(value: Any) -> Any:
    """Four digits: more were not measured."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def _short(text: str) -> str:
    """Lists of numbers on one line."""
    return re.sub(r"\[\s+([-\d.,\s]+?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
