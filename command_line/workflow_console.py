"""What a run tells on a terminal: one progress line for each node, texts, and where the files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..standalone.engine.graph import Prompt, title


class Console:
    def __init__(self, prompt: Prompt) -> None:
        self._prompt, self._bar = prompt, None
        self.files: list[dict[str, str]] = []  # what nodes saved: filename, subfolder, type

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        self._close(False)

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Hears the events of an Executor."""
        if event == "executing":
            self._close(True)
            self._bar = tqdm(total=1, desc=title(self._prompt, data["node"]), unit="step", dynamic_ncols=True)
        elif event == "progress" and self._bar is not None:
            self._bar.total, self._bar.n = data["max"], data["value"]
            self._bar.refresh()
        elif event == "executed":
            self._close(True)
            output = data.get("output") or {}
            self.files += [
                file for file in output.get("images", []) if file["type"] == "output"
            ]  # no previews
            for line in output.get("text", []):
                self.say(line)
        elif event in ("finished", "error"):
            self._close(event == "finished")
        elif event == "left out":
            self.say(f"Left out, the rest runs:\n{data['message']}")

    def say(self, line: str) -> None:
        tqdm.write(line)

    def say_saved(self, files: list[Path]) -> None:
        for path in files:
            self.say(f"saved {path}")

    def _close(self, full: bool) -> None:
        if self._bar is not None:
            self._bar.n = self._bar.total if full else self._bar.n
            self._bar.refresh()
            self._bar.close()
            self._bar = None
