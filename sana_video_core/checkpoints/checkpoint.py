"""Reads checkpoints of every format: names, sizes, rules, strict loading.

Formats: the original .pth, training dumps (.pt), diffusers folders, and our own single safetensors file,
whose metadata holds the config. The weights show neither the size of a head nor whether a model is
block-causal; both come from arguments, metadata, or a config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..config import Family, TransformerConfig
from ..errors import FileError, OtherKindError
from ..files.dump import part_with, weights_by_prefix
from ..files.fingerprint import weights_fingerprint
from ..files.finite import check_finite
from ..files.parts import read_parts
from ..files.places import is_folder
from ..files.quantised import refuse_quantised
from ..files.tensor_file import read_json, read_tensors, write_tensors
from ..files.training_names import unwrapped
from ..transformer.model import SanaVideo
from ..vae.wan_vae import VAEConfig, WanVAE
from .description import FORMAT, VERSION, described, family_of, sizes_of
from .keys import canonical_transformer, canonical_vae, without_prefix
from .tiny_names import is_of_pictures, tiny_tensors

TRANSFORMER = "SANA-Video transformer"
FIRST = ("x_embedder.proj.weight", "patch_embedding.weight")  # by the original, by diffusers
Network = TypeVar("Network", bound=nn.Module)
ALIGNMENT = 64  # bytes, of every tensor that torch makes
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
    load_strictly(model, checkpoint.tensors, Path(path).absolute(), TRANSFORMER)
    model.fingerprint = weights_fingerprint(checkpoint.tensors)
    return ready(model, device, dtype)


def ready(module: Network, device: torch.device | str, dtype: torch.dtype | None) -> Network:
    """A loaded network on its device, frozen.

    Tensors that are mapped from a file begin anywhere, and the last bits of a CPU's sums depend on that: they
    are copied, so that numbers don't depend on who loaded the file.
    """
    module = module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    for parameter in module.parameters():
        if parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()
    return module


def read_checkpoint(
    path: Path | str, *, config: Mapping[str, Any] | Path | str | None = None, family: str | None = None
) -> Checkpoint:
    """What `load_transformer` loads, before it is built."""
    path = Path(path).absolute()  # the names of its folders count too
    tensors, metadata, beside = _read_folder_or_file(path, "transformer")
    refuse_quantised(path.name, tensors, metadata, beside)
    entries = described(config, metadata, beside, path)
    source = _source(tensors, metadata)
    tensors = part_with(FIRST, weights_by_prefix(unwrapped(tensors), path), path)
    tensors = canonical_transformer(tensors)
    if "blocks.0.attn.qkv.weight" not in tensors or "x_embedder.proj.weight" not in tensors:
        raise FileError(_not_ours(path, tensors))
    sizes = sizes_of(tensors, entries, path)
    rules = family_of(family, entries, sizes, path)
    with torch.device("meta"):
        check_complete(SanaVideo(sizes, rules), tensors, path, TRANSFORMER)
    check_finite(tensors, path)
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
        "num_layers": config.depth,
        "family": family,
    }
    metadata = {**(note or {}), FORMAT: str(VERSION), "config": json.dumps(entries)}
    if system_prompt is not None:
        metadata["instruction"] = system_prompt
    write_tensors(path, tensors, metadata)


def load_vae(
    path: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> WanVAE:
    """The Wan 2.1 VAE in a file (named as by the original, ComfyUI or diffusers) or a diffusers folder."""
    return build_vae(read_vae(path), device=device, dtype=dtype)


def build_vae(
    tensors: Mapping[str, Tensor], *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> WanVAE:
    """The network of what `read_vae` reads."""
    with torch.device("meta"):
        vae = WanVAE(VAEConfig.from_state_dict(tensors))
    vae.load_state_dict(tensors, assign=True)
    return ready(vae, device, dtype)


def read_vae(path: Path | str) -> dict[str, Tensor]:
    """What `load_vae` loads: all tensors of one Wan 2.1 VAE, under the original's names."""
    path = Path(path).absolute()
    return checked_vae(path, read_vae_tensors(path)[0])


def read_vae_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A VAE file's tensors of any spelling, and the config.json of its folder."""
    tensors, metadata, beside = _read_folder_or_file(path, "vae")
    refuse_quantised(path.name, tensors, metadata, beside)
    return without_prefix(tensors), beside


def checked_vae(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one whole Wan 2.1 VAE, under the original's names. Raises FileError for others."""
    tensors = canonical_vae(tensors)
    if "decoder.head.0.gamma" not in tensors or "decoder.middle.0.residual.0.gamma" not in tensors:
        kind, what = _what_it_is(tensors)
        raise kind(
            f"“{path.name}” isn't a Wan 2.1 VAE ({what}). "
            "Use wan_2.1_vae.safetensors, Wan2.1_VAE.pth, or the vae folder of a SANA-Video 480p pipeline."
        )
    empty = [name for name, tensor in tensors.items() if not tensor.ndim or not tensor.numel()]
    if empty:
        raise FileError(
            f"“{path.name}” is damaged: there is nothing in{_examples(empty)}. Copy or download it again."
        )
    with torch.device("meta"):
        check_complete(WanVAE(VAEConfig.from_state_dict(tensors)), tensors, path, "Wan 2.1 VAE")
    check_finite(tensors, path)
    return tensors


def _what_it_is(tensors: Mapping[str, Tensor]) -> tuple[type[FileError], str]:
    if tiny_tensors(tensors) is not None:
        return FileError, "it is a tiny decoder, which drafts and can't encode"
    if is_of_pictures(tensors):
        return FileError, "it is a tiny autoencoder of pictures, such as TAESD"
    return OtherKindError, f"it has {len(tensors)} tensors{_examples(tensors)}"


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
    if is_folder(path):
        folder = path / part if is_folder(path / part) else path
        return read_parts(folder), {}, read_json(folder / "config.json") or {}
    tensors, metadata = read_tensors(path)
    beside = read_json(path.parent / "config.json") or {}
    # in a folder of many models, the config.json may be another one's
    ours = OUR_CLASSES in str(beside.get("_class_name", OUR_CLASSES)) and "model_type" not in beside
    return tensors, metadata, beside if ours else {}


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
