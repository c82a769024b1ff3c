"""`info` and `convert`: what a file is, and one kind of checkpoint into another."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..sana_video_core.checkpoints.checkpoint import (
    load_strictly,
    load_vae,
    read_checkpoint,
    save_transformer,
)
from ..sana_video_core.errors import FileError
from ..sana_video_core.files.fingerprint import weights_fingerprint
from ..sana_video_core.files.tensor_file import read_metadata as read_tensor_metadata
from ..sana_video_core.files.video_reader import read_metadata as read_video_metadata
from ..sana_video_core.streaming.report import report
from ..sana_video_core.streaming.state_file import FORMAT as STATE_FORMAT
from ..sana_video_core.streaming.state_file import load_state
from ..sana_video_core.text.system_prompt import find_instruction
from ..sana_video_core.transformer.model import SanaVideo

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")


def describe(path: Path) -> str:
    """What a checkpoint, state or video file is. Raises FileError when it is none of these."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return f"{path.name}: a video\n{json.dumps(read_video_metadata(path), indent=2, ensure_ascii=False)}"
    if path.suffix == ".safetensors" and path.is_file() and STATE_FORMAT in read_tensor_metadata(path):
        return f"{path.name}: the state of a stream\n{report(load_state(path))}"
    try:
        return _transformer(path)
    except FileError as no_transformer:
        try:
            return _vae(path)
        except FileError:
            raise no_transformer from None


def convert(source: Path, target: Path, family: str | None, config: Path | None, dtype: str) -> str:
    """Write a transformer of any format as our single safetensors file; returns what was done."""
    if target.suffix != ".safetensors":
        raise FileError(f"“{target.name}” has to end with .safetensors: that is the format that is written.")
    found = read_checkpoint(source, family=family, config=config)
    with torch.device("meta"):
        model = SanaVideo(found.config, found.family)
    load_strictly(model, found.tensors, source, "SANA-Video transformer")
    wanted = DTYPES.get(dtype)
    tensors = {name: tensor.to(wanted or tensor.dtype) for name, tensor in found.tensors.items()}
    save_transformer(
        target, tensors, found.config, found.family.name, instruction=_instruction(found.instruction, source)
    )
    size = target.stat().st_size / 2**20
    return f"{source.name} ({found.source}) -> {target} ({found.family.name}, {dtype}, {size:.1f} MiB)"


def _instruction(found: str | None, source: Path) -> str | None:
    """The wording that belongs to the source: from its metadata, or a yaml file beside it."""
    return find_instruction(
        near=[source if source.is_dir() else source.parent], extra=[found] if found else []
    )


def _transformer(path: Path) -> str:
    found = read_checkpoint(path)
    config, tensors = found.config, found.tensors
    count = sum(tensor.numel() for tensor in tensors.values())
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    lines = [
        f"{path.name}: a SANA-Video transformer ({found.source})",
        f"family       {found.family.name}: {found.family.title}",
        f"parameters   {count:,} in {len(tensors)} tensors, {', '.join(dtypes)}",
        f"sizes        {config.depth} blocks, width {config.width}, {config.heads} heads of {config.head_dim}",
        f"latents      {config.channels} channels, patches of {config.patch} x {config.patch}",
        f"instruction  {'in the file' if found.instruction else 'not in the file'}",
        f"fingerprint  {weights_fingerprint(tensors)}",
    ]
    return "\n".join(lines)


def _vae(path: Path) -> str:
    vae = load_vae(path)
    count = sum(parameter.numel() for parameter in vae.parameters())
    return f"{path.name}: a Wan 2.1 VAE, base width {vae.config.base_width}, {count:,} parameters, {next(vae.parameters()).dtype}"
