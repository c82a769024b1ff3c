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

from ..config import Family, Sana2Config, TransformerConfig
from ..errors import FileError
from ..files.dump import part_with, weights_by_prefix
from ..files.fingerprint import weights_fingerprint
from ..files.finite import check_finite
from ..files.mapped import let_go
from ..files.parts import read_parts
from ..files.places import is_folder
from ..files.quantised import refuse_quantised
from ..files.tensor_file import read_json, read_tensors, write_tensors
from ..files.training_names import unwrapped
from ..transformer.model import SanaVideo
from ..transformer.model2 import SanaVideo2, check_dtype
from .description import FORMAT, VERSION, described, family_of, sizes_of
from .description2 import is_sana2, sizes2_of
from .keys import canonical_transformer

TRANSFORMER = "SANA-Video transformer"
FIRST = ("x_embedder.proj.weight", "patch_embedding.weight")  # by the original, by diffusers
Network = TypeVar("Network", bound=nn.Module)
ALIGNMENT = 64  # bytes, of every tensor that torch makes
OUR_CLASSES = "SanaVideo"  # part of the class name in every config.json that is meant for us
LTX_CLASSES = "LTX2Video"  # likewise, of its VAE


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
) -> SanaVideo | SanaVideo2:
    """The transformer in a file or a diffusers folder. `dtype` None keeps the file's.

    `config` is a diffusers-style config.json (path or mapping); `family` one of config.FAMILIES. Raises
    FileError or InputError for anything that isn't a complete SANA-Video checkpoint, and for float16 of
    SANA-Video 2.0, which becomes float32 where the file has it.
    """
    checkpoint = read_checkpoint(path, config=config, family=family, dtype=dtype)
    if dtype is None and isinstance(checkpoint.config, Sana2Config) and _is_half(checkpoint.tensors):
        dtype = torch.float32
    model = network_of(checkpoint.config, checkpoint.family, operations)
    load_strictly(model, checkpoint.tensors, Path(path).absolute(), TRANSFORMER)
    model.fingerprint = weights_fingerprint(checkpoint.tensors)
    return ready(model, device, dtype)


def network_of(sizes: TransformerConfig, family: Family, operations: Any = nn) -> SanaVideo | SanaVideo2:
    """The network of these sizes, without weights (on the device “meta”)."""
    with torch.device("meta"):
        if isinstance(sizes, Sana2Config):
            return SanaVideo2(sizes, family, operations=operations)
        return SanaVideo(sizes, family, operations=operations)


def _is_half(tensors: Mapping[str, Tensor]) -> bool:
    return any(tensor.dtype == torch.float16 for tensor in tensors.values())


def ready(module: Network, device: torch.device | str, dtype: torch.dtype | None) -> Network:
    """A loaded network on its device, frozen.

    Tensors that are mapped from a file begin anywhere, and the last bits of a CPU's sums depend on that: they
    are copied, so that numbers don't depend on who loaded the file.
    """
    module = module.eval().requires_grad_(False)
    for parameter in module.parameters():
        read = parameter.data
        parameter.data = read.to(dtype=dtype)
        if parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()
        if parameter.data_ptr() != read.data_ptr():
            let_go(read)
    return module.to(device=device, dtype=dtype)


def read_checkpoint(
    path: Path | str,
    *,
    config: Mapping[str, Any] | Path | str | None = None,
    family: str | None = None,
    dtype: torch.dtype | None = None,
) -> Checkpoint:
    """What `load_transformer` loads, before it is built. Raises InputError if it can't be of `dtype`."""
    path = Path(path).absolute()  # the names of its folders count too
    tensors, metadata, beside = read_folder_or_file(path, "transformer")
    refuse_quantised(path.name, tensors, metadata, beside)
    entries = described(config, metadata, beside, path)
    source = _source(tensors, metadata)
    tensors = part_with(FIRST, weights_by_prefix(unwrapped(tensors), path), path)
    tensors = canonical_transformer(tensors)
    if "blocks.0.attn.qkv.weight" not in tensors or "x_embedder.proj.weight" not in tensors:
        raise FileError(_not_ours(path, tensors))
    sizes = (sizes2_of if is_sana2(tensors) else sizes_of)(tensors, entries, path)
    rules = family_of(family, entries, sizes, path)
    if isinstance(sizes, Sana2Config):
        check_dtype(dtype)
    check_complete(network_of(sizes, rules), tensors, path, TRANSFORMER)
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
    if isinstance(config, Sana2Config):
        entries |= {"softmax_head_dim": config.softmax_head_dim, "attn_res_block_size": config.group}
    metadata = {**(note or {}), FORMAT: str(VERSION), "config": json.dumps(entries)}
    if system_prompt is not None:
        metadata["instruction"] = system_prompt
    write_tensors(path, tensors, metadata)


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
            f"{len(names)} {kind}{examples(names)}"
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


def read_folder_or_file(
    path: Path, part: str, prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Tensors, metadata and config.json of a file, a diffusers folder, or a `part` of a pipeline.

    Of a file with tensors under the prefix, only these.
    """
    if is_folder(path):
        folder = path / part if is_folder(path / part) else path
        return read_parts(folder), {}, read_json(folder / "config.json") or {}
    tensors, metadata = read_tensors(path, prefix=prefix)
    beside = read_json(path.parent / "config.json") or {}
    # in a folder of many models, the config.json may be another one's
    name = str(beside.get("_class_name", OUR_CLASSES))
    ours = (OUR_CLASSES in name or LTX_CLASSES in name) and "model_type" not in beside
    return tensors, metadata, beside if ours else {}


def _source(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    if FORMAT in metadata:
        return "this pack's file"
    return "diffusers" if any("transformer_blocks.0." in name for name in tensors) else "original"


def _not_ours(path: Path, tensors: Mapping[str, Tensor]) -> str:
    return (
        f"“{path.name}” isn't a SANA-Video transformer: it has {len(tensors)} tensors{examples(tensors)}. "
        "Use the original .pth, a diffusers transformer folder, or a file made by `sana-video convert`."
    )


def examples(names: Any) -> str:
    """The first names of many, for a message."""
    few = sorted(names)[:3]
    return f" ({', '.join(few)}{', …' if len(names) > 3 else ''})" if few else ""
