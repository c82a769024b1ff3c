"""Checkpoints: recognise a file, bring its names to the original's, read its sizes off its tensors, load strictly.

Formats: the original .pth, training dumps (.pt), diffusers folders, and our own single safetensors file, whose metadata
holds the config. The weights cannot tell a block-causal model from a bidirectional one, nor the size of a head; both come
from arguments, metadata, or a config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import FAMILIES, Family, TransformerConfig, family_named
from .errors import FileError, InputError
from .fingerprint import weights_fingerprint
from .keys import canonical_transformer, canonical_vae, without_prefix
from .model import SanaVideo
from .tensor_file import parse_json, read_tensors, write_tensors
from .wan_vae import VAEConfig, WanVAE

FORMAT = "sana_video"
VERSION = 1
PUBLISHED_HEAD = 112
INDEX = "diffusion_pytorch_model.safetensors.index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CAUSAL_CLASS = "SanaVideoCausalTransformer3DModel"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A transformer's file, understood but not built: canonical tensors, sizes, rules, and what else it told."""

    tensors: dict[str, Tensor]
    config: TransformerConfig
    family: Family
    instruction: str | None  # the wording that SANA puts before a prompt, if the file carries it
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

    `config` is a diffusers-style config.json (path or mapping); `family` one of config.FAMILIES. Raises FileError or
    InputError with a sentence for anything that is not a complete SANA-Video checkpoint.
    """
    found = read_checkpoint(path, config=config, family=family)
    with torch.device("meta"):
        model = SanaVideo(found.config, found.family, operations=operations)
    load_strictly(model, found.tensors, Path(path), "SANA-Video transformer")
    model.fingerprint = weights_fingerprint(found.tensors)
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def read_checkpoint(
    path: Path | str, *, config: Mapping[str, Any] | Path | str | None = None, family: str | None = None
) -> Checkpoint:
    """What `load_transformer` loads, before it is built."""
    path = Path(path)
    tensors, metadata, beside = _read_folder_or_file(path, "transformer")
    told = _given_config(config) or _metadata_config(metadata, path) or beside or {}
    source = _source(tensors, metadata)
    tensors = canonical_transformer(tensors)
    if "blocks.0.attn.qkv.weight" not in tensors or "x_embedder.proj.weight" not in tensors:
        raise FileError(_not_ours(path, tensors))
    sizes = _sizes(tensors, told, path)
    rules = _family(family or told.get("family"), told, sizes, path)
    return Checkpoint(
        tensors=tensors, config=sizes, family=rules, instruction=metadata.get("instruction"), source=source
    )


def save_transformer(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    config: TransformerConfig,
    family: str,
    *,
    instruction: str | None = None,
    note: Mapping[str, str] | None = None,
) -> None:
    """Our single file: canonical tensors, with config and family in the metadata. Complete, or not there."""
    told = {
        "attention_head_dim": config.head_dim,
        "cross_attention_head_dim": config.cross_head_dim,
        "family": family,
    }
    metadata = {**(note or {}), FORMAT: str(VERSION), "config": json.dumps(told)}
    if instruction is not None:
        metadata["instruction"] = instruction
    write_tensors(path, tensors, metadata)


def load_vae(
    path: Path | str,
    *,
    operations: Any = nn,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> WanVAE:
    """The Wan 2.1 VAE in a file (the original's or ComfyUI's names, or diffusers') or a diffusers folder."""
    path = Path(path)
    tensors, _, _ = _read_folder_or_file(path, "vae")
    tensors = canonical_vae(without_prefix(tensors))
    if "decoder.head.0.gamma" not in tensors or "decoder.middle.0.residual.0.gamma" not in tensors:
        raise FileError(
            f"“{path.name}” is no Wan 2.1 VAE (it has {len(tensors)} tensors{_examples(tensors)}). Use wan_2.1_vae.safetensors, "
            "Wan2.1_VAE.pth, or the vae folder of a SANA-Video 480p pipeline."
        )
    with torch.device("meta"):
        vae = WanVAE(VAEConfig.from_state_dict(tensors), operations=operations)
    load_strictly(vae, tensors, path, "Wan 2.1 VAE")
    return vae.to(device=device, dtype=dtype).eval().requires_grad_(False)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Put tensors in the place of a module's parameters; every name and shape has to match."""
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
            f"“{path.name}” is no complete {what}: {' and '.join(parts)}. Use the whole published file, not a part or a "
            "LoRA."
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise FileError(
                f"“{path.name}”: {name} has shape {list(tensor.shape)}, but the {what} that its other tensors describe has "
                f"{list(expected[name].shape)}. The file is damaged or of another model."
            )
    module.load_state_dict(dict(tensors), strict=True, assign=True)


def _read_folder_or_file(
    path: Path, part: str
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any] | None]:
    """Tensors, metadata, and the config.json beside them, of a file, a diffusers folder, or a whole pipeline's."""
    if path.is_dir():
        folder = path / part if (path / part).is_dir() else path
        return _read_shards(folder), {}, _json_file(folder / "config.json")
    tensors, metadata = read_tensors(path)
    return tensors, metadata, _json_file(path.parent / "config.json")


def _read_shards(folder: Path) -> dict[str, Tensor]:
    index = _json_file(folder / INDEX)
    names = sorted(set(index.get("weight_map", {}).values())) if index else [WEIGHTS]
    if not index and not (folder / WEIGHTS).is_file():
        raise FileError(
            f"The folder “{folder}” holds no {WEIGHTS} (nor an index of parts). Choose the folder that diffusers "
            "calls transformer or vae, or one file."
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_tensors(folder / name)[0]
    return tensors


def _json_file(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None when there is no such file."""
    if not path.is_file():
        return None
    content = parse_json(path.read_text(encoding="utf-8"), path, "content")
    if not isinstance(content, dict):
        raise FileError(f"“{path}” holds no JSON object; it is no config.")
    return content


def _given_config(config: Mapping[str, Any] | Path | str | None) -> Mapping[str, Any] | None:
    if config is None or isinstance(config, Mapping):
        return config
    content = _json_file(Path(config))
    if content is None:
        raise FileError(f"There is no config file “{config}”.")
    return content


def _metadata_config(metadata: Mapping[str, str], path: Path) -> Mapping[str, Any] | None:
    if FORMAT not in metadata:
        return None
    if metadata[FORMAT] != str(VERSION):
        raise FileError(
            f"“{path.name}” is a checkpoint of format {metadata[FORMAT]}; this version of the pack reads format {VERSION}. "
            "Update the pack."
        )
    content = parse_json(metadata.get("config", ""), path, "config")
    if not isinstance(content, dict):
        raise FileError(
            f"“{path.name}” has no config in its metadata; the file is damaged. Convert it again."
        )
    return content


def _sizes(tensors: Mapping[str, Tensor], told: Mapping[str, Any], path: Path) -> TransformerConfig:
    """Every size that the tensors show; the size of a head from what was told, else 112 where that divides."""
    try:
        patches = tensors["x_embedder.proj.weight"]  # [D, C, 1, patch, patch]
        width, channels, _, patch, _ = patches.shape
        point = tensors["blocks.0.mlp.point_conv.conv.weight"]
        caption = tensors["y_embedder.y_proj.fc1.weight"]
        blocks = {int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")}
    except (KeyError, ValueError) as error:
        raise FileError(
            f"“{path.name}” is no complete SANA-Video transformer: its sizes cannot be read ({error}). Use the whole "
            "published file."
        ) from error
    head = told.get("attention_head_dim") or (PUBLISHED_HEAD if width % PUBLISHED_HEAD == 0 else None)
    if head is None:
        raise FileError(
            f"“{path.name}” does not tell its head size, and its width {width} is not a multiple of the published "
            f"{PUBLISHED_HEAD}. Put the model's config.json beside it, or give one (--config)."
        )
    return TransformerConfig(
        channels=channels,
        patch=patch,
        width=width,
        depth=len(blocks),
        head_dim=int(head),
        cross_head_dim=int(told.get("cross_attention_head_dim") or head),
        ffn_hidden=point.shape[1],
        caption_channels=caption.shape[1],
    )


def _family(name: str | None, told: Mapping[str, Any], sizes: TransformerConfig, path: Path) -> Family:
    """The family by name; else by diffusers' class and the file's own name, as diffusers' converter does."""
    if name is not None:
        family = family_named(name)
    elif sizes.patch == 1:
        family = FAMILIES["sana_video_720p"]
    else:
        known_causal = told.get("_class_name") == CAUSAL_CLASS
        own_name = f"{path.parent.name}/{path.name}" if path.is_dir() else path.name
        named_causal = any(word in own_name.lower() for word in ("longlive", "longsana"))
        family = FAMILIES["longsana_480p" if known_causal or named_causal else "sana_video_480p"]
    if (sizes.channels, sizes.patch) != (family.config.channels, family.config.patch):
        raise InputError(
            f"“{path.name}” has {sizes.channels} latent channels in patches of {sizes.patch}, but the family {family.name} has "
            f"{family.config.channels} in patches of {family.config.patch}. Choose the family that belongs to this file."
        )
    return family


def _source(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    if FORMAT in metadata:
        return "this pack's file"
    return "diffusers" if any("transformer_blocks.0." in name for name in tensors) else "original"


def _not_ours(path: Path, tensors: Mapping[str, Tensor]) -> str:
    return (
        f"“{path.name}” is no SANA-Video transformer: it has {len(tensors)} tensors{_examples(tensors)}. Use the original "
        ".pth, a diffusers transformer folder, or a file made by `sana-video convert`."
    )


def _examples(names: Any) -> str:
    """The first names of many, for a message."""
    few = sorted(names)[:3]
    return f" ({', '.join(few)}{', …' if len(names) > 3 else ''})" if few else ""
