"""Text encoders for tests: the demo's, made to take a system prompt like the real Gemma."""

from __future__ import annotations

import json
from pathlib import Path

from comfyui_sana_video.demo.text_encoder import build_demo_text_encoder


def build_encoder_with_system_prompt(folder: Path) -> Path:
    """The demo's text encoder, with a config like that of the real Gemma."""
    build_demo_text_encoder(folder)
    forget_the_demo(folder)
    return folder


def forget_the_demo(folder: Path) -> None:
    """Remove the note in config.json that the encoder takes no system prompt: Gemma's own has none."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("sana_instruction") == ""
    path.write_text(json.dumps(config))
