"""Writes what was measured to benchmarks/results/, with what the numbers depend on: GPU, versions, code."""

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


def write(folder: Path | None, name: str, results: dict[str, Any]) -> None:
    """Write folder/NAME_GPU.json.

    Keeps the cases of an earlier file of the same code, GPU and versions, so that a long run can be split.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}_{gpu()}.json"
    origin = {"gpu": _name(), **_versions(), "code": code()}
    earlier = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    if "cases" in results and origin.items() <= earlier.items():
        results = {**results, "cases": {**earlier["cases"], **results["cases"]}}
    target.write_text(_short(json.dumps(origin | _rounded(results), indent=1)) + "\n", encoding="utf-8")


def gpu() -> str:
    """A name for files: h100, rtx_4090."""
    name = re.sub(r"^(nvidia|amd) |geforce |radeon | \d+gb.*$", "", _name().lower())
    return re.sub(r"\W+", "_", name)


def _name() -> str:
    try:
        return torch.cuda.get_device_name()
    except (RuntimeError, AssertionError):  # a test of a benchmark, on a machine without a GPU
        return "CPU"


def code() -> str:
    """A hash of the network's and the kernels' sources: the code of a result is known without git."""
    digest = hashlib.sha256()
    for path in sorted(
        path for part in ("kernels", "sana_video_core") for path in (ROOT / part).rglob("*.py")
    ):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("torch", "triton", "diffusers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    return versions


def _rounded(value: Any) -> Any:
    """Four digits: more were not measured."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value


def _short(text: str) -> str:
    """Lists of numbers on one line."""
    return re.sub(r"\[\s+([-\d.,\s]+?)\s+\]", lambda match: "[" + " ".join(match[1].split()) + "]", text)
