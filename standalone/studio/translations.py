"""The pack's words in other languages, as ComfyUI hands them to its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXTRA = ("nodeDefs", "commands", "settings")


def translations(locales: Path) -> dict[str, dict[str, Any]]:
    """{language: what its main.json holds, and its other files under their names}."""
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(path for path in locales.iterdir() if path.is_dir()):
        words = _read(folder / "main.json")
        words |= {name: part for name in EXTRA if (part := _read(folder / f"{name}.json"))}
        if words:
            found[folder.name] = words
    return found


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
