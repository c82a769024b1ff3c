"""Text encoders for tests: the demo's, which reads prompts as they are, made to take an instruction like the real one."""

from __future__ import annotations

import json
from pathlib import Path

from comfyui_sana_video.demo.text_encoder import build_demo_text_encoder


def build_instructed_encoder(folder: Path) -> Path:
    """The demo's text encoder, with a config like that of the real Gemma."""
    build_demo_text_encoder(folder)
    forget_the_demo(folder)
    return folder


def forget_the_demo(folder: Path) -> None:
    """Take out of config.json that the encoder takes no instruction: Gemma's own says nothing about it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("sana_instruction") == ""
    path.write_text(json.dumps(config))
