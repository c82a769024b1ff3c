"""Exports a training as a demo set: three models in the pack's formats, with notes on their training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..demo.model_set import DemoSet
from ..demo.text_encoder import build_demo_text_encoder
from ..sana_video_core.checkpoints.checkpoint import save_transformer
from ..sana_video_core.config import DEMO
from ..sana_video_core.files.tensor_file import write_tensors
from ..sana_video_core.vae.wan_vae import WanVAE
from .optimiser import Optimiser

NOTE = "trained on scenes drawn by training/scenes.py of this repository"


def export_set(folder: Path, vae: Path, optimiser: Optimiser, training: Mapping[str, str]) -> DemoSet:
    """Write the averaged weights of a training into `folder`, beside a copy of its VAE."""
    paths = DemoSet.at(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note = _note(training)
    save_transformer(
        paths.transformer, _in(torch.bfloat16, optimiser.averaged("model")), DEMO.config, DEMO.name, note=note
    )
    shutil.copyfile(vae, paths.vae)
    build_demo_text_encoder(paths.text_encoder, width=DEMO.config.caption_channels)
    # float32: it is small, and a CPU computes in the stored dtype
    weights = _in(torch.float32, optimiser.averaged("encoder"))
    write_tensors(paths.text_encoder / "model.safetensors", weights, {"format": "pt", **note})
    return paths


def write_vae(path: Path, vae: WanVAE, training: Mapping[str, str]) -> None:
    write_tensors(path, _in(torch.bfloat16, vae.state_dict()), _note(training))


def _note(training: Mapping[str, str]) -> dict[str, str]:
    return {"note": NOTE, "training": json.dumps(dict(training))}


def _in(dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
