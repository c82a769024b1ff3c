"""Small random models of the 720p families under the published names, in the published formats."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from comfyui_sana_video.workflows.scenes import FIFTY, FOUR, LARGE, LTX, LTX_2_3

from .ltx_files import write_ltx

CAPTIONS = 64  # channels of the demo's text encoder, which stands in for Gemma


def furnish(models: Path) -> None:
    """Files in ComfyUI's folders: transformers as the original saves them, and both VAEs."""
    folder = models / "diffusion_models"
    for each in (folder, models / "vae"):
        each.mkdir(parents=True, exist_ok=True)
    small, second = _large(), _second()
    torch.save({"state_dict": small}, folder / LARGE)
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in second.items()}}, folder / FIFTY)
    torch.save({"state_dict_ema": second}, folder / FOUR)
    for name, file in (("LTX-2", LTX), ("LTX-2.3", LTX_2_3)):
        write_ltx(models / "vae" / file, name, _pack)


def _large() -> dict[str, torch.Tensor]:
    config = _pack("sana_video_core.config")
    # a published head size: no config is beside these files
    sizes = config.TransformerConfig(
        channels=128, patch=1, width=112, depth=2, head_dim=112, cross_head_dim=112, ffn_hidden=112,
        caption_channels=CAPTIONS,
    )  # fmt: skip
    return _weights("model", "SanaVideo", sizes, config.SANA_VIDEO_720P)


def _second() -> dict[str, torch.Tensor]:
    config = _pack("sana_video_core.config")
    sizes = config.Sana2Config(
        channels=128, patch=1, width=128, depth=8, head_dim=16, softmax_head_dim=32, cross_head_dim=128,
        ffn_hidden=128, caption_channels=CAPTIONS, group=8,
    )  # fmt: skip
    return _weights("model2", "SanaVideo2", sizes, config.SANA_VIDEO2_720P)


def _weights(module: str, name: str, sizes: Any, family: Any) -> dict[str, torch.Tensor]:
    network = getattr(_pack(f"sana_video_core.transformer.{module}"), name)(sizes, family)
    return _pack("demo.model_set").seeded(network, 0).state_dict()


def _pack(module: str) -> Any:
    return importlib.import_module(f"comfyui_sana_video.{module}")


def with_demo_text(prompt: dict[str, Any], **size: int) -> dict[str, Any]:
    """A workflow's prompt with the demo's text encoder, and another size."""
    for node in prompt.values():
        if node["class_type"] == "SanaVideoTextEncoderLoader":
            node["inputs"]["encoder_name"] = "demo (built in)"
        if node["class_type"] == "SanaVideoEmptyLatent":
            node["inputs"] |= size
    return prompt
