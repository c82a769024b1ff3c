"""`info` and `convert`: say what a file is, and rewrite a checkpoint as our single file."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..sana_video_core.checkpoints.checkpoint import read_checkpoint, save_transformer
from ..sana_video_core.checkpoints.draft import load_vae_or_draft
from ..sana_video_core.config import DTYPES
from ..sana_video_core.errors import FileError, OtherKindError
from ..sana_video_core.files.film import Film
from ..sana_video_core.files.fingerprint import weights_fingerprint
from ..sana_video_core.files.finite import check_finite
from ..sana_video_core.files.mapped import let_go
from ..sana_video_core.files.places import is_file, is_folder
from ..sana_video_core.files.tensor_file import read_metadata as read_tensor_metadata
from ..sana_video_core.files.video_reader import read_metadata as read_video_metadata
from ..sana_video_core.files.weight_names import SAFETENSORS_SUFFIXES
from ..sana_video_core.streaming.report import report
from ..sana_video_core.streaming.state import LightState
from ..sana_video_core.streaming.state_file import FORMAT as STATE_FORMAT
from ..sana_video_core.streaming.state_file import load_state
from ..sana_video_core.text.system_prompt import find_system_prompt
from ..sana_video_core.vae.decoders import VideoVAE
from ..sana_video_core.vae.tiny_decoder import TinyDecoder
from ..sana_video_core.vae.wan_vae import WanVAE

TORCH_DTYPES = dict(zip(DTYPES, (torch.bfloat16, torch.float16, torch.float32), strict=True))
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mts", ".ts")


def describe(path: Path) -> str:
    """What a checkpoint, state or video file is. Raises FileError when it is none of these."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        made = read_video_metadata(path)
        how = f"\n{json.dumps(made, indent=2, ensure_ascii=False)}" if made else ""
        return f"{path.name}: a video, {Film(path).description}{how}"
    if _is_state(path):
        state, version = load_state(path), read_tensor_metadata(path)[STATE_FORMAT]
        held = "history only" if isinstance(state, LightState) else "everything"
        return f"{path.name}: the state of a stream, {held}, format {version}\n{report(state)}"
    try:
        return _transformer(path)
    except FileError as no_transformer:
        try:
            return _vae(path)
        except FileError as no_vae:
            unlike = isinstance(no_vae, OtherKindError) or is_folder(path)
            raise (no_transformer if unlike else no_vae) from None


def convert(source: Path, target: Path, family: str | None, config: Path | None, dtype: str) -> str:
    """Write a transformer of any format as our single safetensors file; returns what was done."""
    if target.suffix != ".safetensors":
        raise FileError(f"“{target.name}” has to end with .safetensors: that is the format that is written.")
    checkpoint = read_checkpoint(source, family=family, config=config, dtype=TORCH_DTYPES.get(dtype))
    required = TORCH_DTYPES.get(dtype)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        tensors[name] = tensor.to(required or tensor.dtype)
        let_go(tensor)
    _check_range(tensors, source, dtype)
    name, system_prompt = checkpoint.family.name, _system_prompt(checkpoint.system_prompt, source)
    save_transformer(target, tensors, checkpoint.config, name, system_prompt=system_prompt)
    size = target.stat().st_size / 2**20
    return f"{source.name} ({checkpoint.source}) -> {target} ({name}, {dtype}, {size:.1f} MiB)"


def _check_range(tensors: dict[str, torch.Tensor], source: Path, dtype: str) -> None:
    """Raises FileError if a narrower type made infinities of large weights."""
    try:
        check_finite(tensors, source)
    except FileError as error:
        raise FileError(
            f"“{source.name}” has weights that {dtype} can't hold. Convert it with --dtype bf16 or keep."
        ) from error


def _system_prompt(stored: str | None, source: Path) -> str | None:
    """The source's system prompt, from its metadata or a yaml file beside it."""
    return find_system_prompt(
        near=[source if is_folder(source) else source.parent], extra=[stored] if stored else []
    )


def _is_state(path: Path) -> bool:
    """Whether a safetensors file says that it is a state; what can't be read says why elsewhere."""
    if path.suffix.lower() not in SAFETENSORS_SUFFIXES or not is_file(path):
        return False
    try:
        return STATE_FORMAT in read_tensor_metadata(path)
    except FileError:
        return False


def _transformer(path: Path) -> str:
    checkpoint = read_checkpoint(path)
    config, tensors = checkpoint.config, checkpoint.tensors
    count = sum(tensor.numel() for tensor in tensors.values())
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    lines = [
        f"{path.name}: a SANA-Video transformer ({checkpoint.source})",
        f"family       {checkpoint.family.name}: {checkpoint.family.title}",
        f"parameters   {count:,} in {len(tensors)} tensors, {', '.join(dtypes)}",
        f"sizes        {config.depth} blocks, width {config.width}, "
        f"{config.heads} heads of {config.head_dim}",
        f"latents      {config.channels} channels, patches of {config.patch} x {config.patch}",
        f"instruction  {'in the file' if checkpoint.system_prompt else 'not in the file'}",
        f"fingerprint  {weights_fingerprint(tensors)}",
    ]
    return "\n".join(lines)


def _vae(path: Path) -> str:
    vae = load_vae_or_draft(path)
    count = sum(parameter.numel() for parameter in vae.parameters())
    sizes = f"{count:,} parameters, {next(vae.parameters()).dtype}"
    if isinstance(vae, TinyDecoder):
        return f"{path.name}: the draft decoder {vae.kind} of {vae.spec.name} latents, {sizes}"
    return f"{path.name}: {_sizes(vae)}, {sizes}"


def _sizes(vae: VideoVAE) -> str:
    if isinstance(vae, WanVAE):
        return f"a {vae.spec.name} VAE, base width {vae.config.base_width}"
    causal = "causal" if vae.config.causal else "symmetric"
    widths = ", ".join(map(str, vae.config.decoder_widths))
    return f"an {vae.spec.name} VAE, {causal} decoder of the widths {widths}"
