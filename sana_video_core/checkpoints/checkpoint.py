"""Reads checkpoints of every format: names, sizes, rules, strict loading.

Formats: the original .pth, training dumps (.pt), diffusers folders, and our own single safetensors file,
whose metadata holds the config. The weights show neither the size of a head nor whether a model is
block-causal; both come from arguments, metadata, or a config.json.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import FAMILIES, Family, TransformerConfig, family_named
from ..errors import FileError, InputError
from ..files.fingerprint import weights_fingerprint
from ..files.tensor_file import parse_json, read_json, read_parts, read_tensors, write_tensors
from ..transformer.model import SanaVideo
from ..vae.wan_vae import VAEConfig, WanVAE
from .keys import canonical_transformer, canonical_vae, without_prefix

FORMAT = "sana_video"
VERSION = 1
PUBLISHED_HEAD = 112
CAUSAL_CLASS = "SanaVideoCausalTransformer3DModel"
OUR_CLASSES = "SanaVideo"  # part of the class name in every config.json that is meant for us


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A transformer's file, read but not built."""

    tensors: dict[str, Tensor]
    config: TransformerConfig
    family: Family
    system_prompt: str | None  # the original's, if it is in the file
    source: str  # which kind of file it was


def load_transformer(
    path: Path | str,
    *,
    config: Mapping[str, Any] | Path | str | None = None,
    family: str | None = None,
    operations: Any = nn,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> SanaVideo:
    """The transformer in a file or a diffusers folder. `dtype` None keeps the file's.

    `config` is a diffusers-style config.json (path or mapping); `family` one of config.FAMILIES. Raises
    FileError or InputError for anything that isn't a complete SANA-Video checkpoint.
    """
    checkpoint = read_checkpoint(path, config=config, family=family)
    with torch.device("meta"):
        model = SanaVideo(checkpoint.config, checkpoint.family, operations=operations)
    load_strictly(model, checkpoint.tensors, Path(path).absolute(), "SANA-Video transformer")
    model.fingerprint = weights_fingerprint(checkpoint.tensors)
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def read_checkpoint(
    path: Path | str, *, config: Mapping[str, Any] | Path | str | None = None, family: str | None = None
) -> Checkpoint:
    """What `load_transformer` loads, before it is built."""
    path = Path(path).absolute()  # the names of its folders count too
    tensors, metadata, beside = _read_folder_or_file(path, "transformer")
    # earlier ones win
    sources = (_config_argument(config), _metadata_config(metadata, path), beside)
    merged = ChainMap(*(dict(source) for source in sources))
    source = _source(tensors, metadata)
    tensors = canonical_transformer(tensors)
    if "blocks.0.attn.qkv.weight" not in tensors or "x_embedder.proj.weight" not in tensors:
        raise FileError(_not_ours(path, tensors))
    sizes = _sizes(tensors, merged, path)
    rules = _family(family or merged.get("family") or None, merged, sizes, path)
    return Checkpoint(
        tensors=tensors, config=sizes, family=rules, system_prompt=metadata.get("instruction"), source=source
    )


def save_transformer(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    config: TransformerConfig,
    family: str,
    *,
    system_prompt: str | None = None,
    note: Mapping[str, str] | None = None,
) -> None:
    """Write our single file: canonical tensors, with config and family in the metadata."""
    entries = {
        "attention_head_dim": config.head_dim,
        "cross_attention_head_dim": config.cross_head_dim,
        "family": family,
    }
    metadata = {**(note or {}), FORMAT: str(VERSION), "config": json.dumps(entries)}
    if system_prompt is not None:
        metadata["instruction"] = system_prompt
    write_tensors(path, tensors, metadata)


def load_vae(
    path: Path | str,
    *,
    operations: Any = nn,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> WanVAE:
    """The Wan 2.1 VAE in a file (named as by the original, ComfyUI or diffusers) or a diffusers folder."""
    path = Path(path).absolute()
    tensors, _, _ = _read_folder_or_file(path, "vae")
    tensors = canonical_vae(without_prefix(tensors))
    if "decoder.head.0.gamma" not in tensors or "decoder.middle.0.residual.0.gamma" not in tensors:
        raise FileError(
            f"“{path.name}” isn't a Wan 2.1 VAE (it has {len(tensors)} tensors{_examples(tensors)}). "
            "Use wan_2.1_vae.safetensors, Wan2.1_VAE.pth, or the vae folder of a SANA-Video 480p pipeline."
        )
    empty = [name for name, tensor in tensors.items() if not tensor.ndim or not tensor.numel()]
    if empty:
        raise FileError(
            f"“{path.name}” is damaged: there is nothing in{_examples(empty)}. Copy or download it again."
        )
    with torch.device("meta"):
        vae = WanVAE(VAEConfig.from_state_dict(tensors), operations=operations)
    load_strictly(vae, tensors, path, "Wan 2.1 VAE")
    return vae.to(device=device, dtype=dtype).eval().requires_grad_(False)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Make tensors the parameters of a module; every name and shape has to match."""
    check_complete(module, tensors, path, what)
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def check_complete(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Raises FileError unless tensors have the module's names and shapes, and are of a float type."""
    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    if missing or extra:
        parts = [
            f"{len(names)} {kind}{_examples(names)}"
            for names, kind in ((missing, "missing"), (extra, "unknown"))
            if names
        ]
        raise FileError(
            f"“{path.name}” isn't a complete {what}: {' and '.join(parts)}. "
            "Use the whole published file, not a part or a LoRA."
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise FileError(
                f"“{path.name}”: {name} holds values of type {str(tensor.dtype).removeprefix('torch.')}. "
                "A quantized file is not supported: use one in float32, float16, bfloat16 or float8."
            )
        if tensor.shape != expected[name].shape:
            raise FileError(
                f"“{path.name}”: {name} has shape {list(tensor.shape)}, but the {what} that its other "
                f"tensors describe has {list(expected[name].shape)}. The file is damaged or of another model."
            )


def _read_folder_or_file(path: Path, part: str) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Tensors, metadata and config.json of a file, a diffusers folder, or a `part` of a pipeline."""
    if _is_folder(path):
        folder = path / part if _is_folder(path / part) else path
        return read_parts(folder), {}, read_json(folder / "config.json") or {}
    tensors, metadata = read_tensors(path)
    beside = read_json(path.parent / "config.json") or {}
    # in a folder of many models, the config.json may be another one's
    return tensors, metadata, beside if OUR_CLASSES in str(beside.get("_class_name", OUR_CLASSES)) else {}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the system refuses the name; reading it as a file says why
        return False


def _config_argument(config: Mapping[str, Any] | Path | str | None) -> Mapping[str, Any]:
    if config is None or isinstance(config, Mapping):
        return config or {}
    content = read_json(Path(config))
    if content is None:
        raise FileError(f"There is no config file “{config}”.")
    return content


def _metadata_config(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any]:
    if FORMAT not in metadata:
        return {}
    if metadata[FORMAT] != str(VERSION):
        raise FileError(
            f"“{path.name}” is a checkpoint of format {metadata[FORMAT]}; "
            f"this version of the pack reads format {VERSION}. Update the pack."
        )
    content = parse_json(metadata.get("config", ""), path, "config")
    if not isinstance(content, dict):
        raise FileError(
            f"“{path.name}” has no config in its metadata; the file is damaged. Convert it again."
        )
    return content


def _sizes(tensors: Mapping[str, Tensor], entries: Mapping[str, Any], path: Path) -> TransformerConfig:
    """The sizes that the tensors show; that of a head from the config, else 112 if it divides the width."""
    width, channels, _, patch, _ = _shape(tensors, "x_embedder.proj.weight", 5, path)
    _, ffn_hidden, *_ = _shape(tensors, "blocks.0.mlp.point_conv.conv.weight", 4, path)
    _, caption_channels = _shape(tensors, "y_embedder.y_proj.fc1.weight", 2, path)
    head = _whole_number(entries, "attention_head_dim", path)
    if head is None and width % PUBLISHED_HEAD:
        raise FileError(
            f"“{path.name}” does not say its head size, and its width {width} is not a multiple of the "
            f"published {PUBLISHED_HEAD}. Put the model's config.json beside it, or give one (--config)."
        )
    head = PUBLISHED_HEAD if head is None else head
    cross_head = _whole_number(entries, "cross_attention_head_dim", path)
    return TransformerConfig(
        channels=channels,
        patch=patch,
        width=width,
        depth=len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
        head_dim=head,
        cross_head_dim=head if cross_head is None else cross_head,
        ffn_hidden=ffn_hidden,
        caption_channels=caption_channels,
    )


def _shape(tensors: Mapping[str, Tensor], name: str, axes: int, path: Path) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read off."""
    if name not in tensors or tensors[name].ndim != axes:
        problem = f"has {tensors[name].ndim} axes instead of {axes}" if name in tensors else "is missing"
        raise FileError(
            f"“{path.name}” isn't a complete SANA-Video transformer: {name} {problem}. "
            "Use the whole published file of a video model."
        )
    return tuple(tensors[name].shape)


def _whole_number(entries: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = entries.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(
        f"The config for “{path.name}” says {key}: {value!r}, which isn't a whole number "
        f"(the published models have {PUBLISHED_HEAD}). Correct it, or use the model's own config.json."
    )


def _family(name: object, entries: Mapping[str, Any], sizes: TransformerConfig, path: Path) -> Family:
    """The family by name, else by diffusers' class and the file's name, as diffusers' converter does."""
    if name is not None:
        family = family_named(str(name))
    elif sizes.patch == 1:
        family = FAMILIES["sana_video_720p"]
    else:
        known_causal = entries.get("_class_name") == CAUSAL_CLASS
        file_name = f"{path.parent.name}/{path.name}" if path.is_dir() else path.name
        named_causal = any(word in file_name.lower() for word in ("longlive", "longsana"))
        family = FAMILIES["longsana_480p" if known_causal or named_causal else "sana_video_480p"]
    if (sizes.channels, sizes.patch) != (family.config.channels, family.config.patch):
        raise InputError(
            f"“{path.name}” has {sizes.channels} latent channels in patches of {sizes.patch}, but the "
            f"family {family.name} has {family.config.channels} in patches of {family.config.patch}. "
            "Choose the family that belongs to this file."
        )
    return family


def _source(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    if FORMAT in metadata:
        return "this pack's file"
    return "diffusers" if any("transformer_blocks.0." in name for name in tensors) else "original"


def _not_ours(path: Path, tensors: Mapping[str, Tensor]) -> str:
    return (
        f"“{path.name}” isn't a SANA-Video transformer: it has {len(tensors)} tensors{_examples(tensors)}. "
        "Use the original .pth, a diffusers transformer folder, or a file made by `sana-video convert`."
    )


def _examples(names: Any) -> str:
    """The first names of many, for a message."""
    few = sorted(names)[:3]
    return f" ({', '.join(few)}{', …' if len(names) > 3 else ''})" if few else ""
