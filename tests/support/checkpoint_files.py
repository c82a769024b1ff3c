"""What tests of files share: the same small weights in every format, and what a good error looks like."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import read_checkpoint, save_transformer
from comfyui_sana_video.sana_video_core.errors import FileError, InputError
from safetensors.torch import load_file, save_file
from support.pack import GOLDEN
from torch import Tensor

Tensors = dict[str, Tensor]

CONFIG = GOLDEN / "config_diffusers.json"
WEIGHTS: Tensors = load_file(GOLDEN / "weights_nvlabs.safetensors")  # original names; width 60, heads of 20
Y_EMBEDDING = WEIGHTS.pop("y_embedder.y_embedding")  # the original saves it, no model uses it
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"

# original -> diffusers, written independently of the pack; {} is the number of a block
OUTER_NAMES = {
    "x_embedder.proj": "patch_embedding",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "t_embedder.mlp.0": "time_embed.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_embed.emb.timestep_embedder.linear_2",
    "t_block.1": "time_embed.linear",
    "attention_y_norm": "caption_norm",
    "final_layer.linear": "proj_out",
}
BLOCK_NAMES = {
    "attn.q_norm": "attn1.norm_q",
    "attn.k_norm": "attn1.norm_k",
    "attn.proj": "attn1.to_out.0",
    "cross_attn.q_linear": "attn2.to_q",
    "cross_attn.q_norm": "attn2.norm_q",
    "cross_attn.k_norm": "attn2.norm_k",
    "cross_attn.proj": "attn2.to_out.0",
    "mlp.inverted_conv.conv": "ff.conv_inverted",
    "mlp.depth_conv.conv": "ff.conv_depth",
    "mlp.point_conv.conv": "ff.conv_point",
    "mlp.t_conv": "ff.conv_temp",
}


def diffusers_named(tensors: Tensors, *, fused: bool = False) -> Tensors:
    """Original names -> diffusers'; `fused` as after its fuse_qkv_projections."""
    named: Tensors = {}
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        block = re.match(r"blocks\.(\d+)\.?(.*)", stem)
        if stem == "final_layer" or (block and not block[2]):  # the tables, whose name is their last part
            named[f"transformer_blocks.{block[1]}.{leaf}" if block else leaf] = tensor
        elif not block:
            named[f"{OUTER_NAMES[stem]}.{leaf}"] = tensor
        elif block[2] in BLOCK_NAMES:
            named[f"transformer_blocks.{block[1]}.{BLOCK_NAMES[block[2]]}.{leaf}"] = tensor
        else:
            letters = {"attn.qkv": "qkv", "cross_attn.kv_linear": "kv"}[block[2]]
            attention = f"transformer_blocks.{block[1]}.{'attn1' if letters == 'qkv' else 'attn2'}.to_"
            if fused:
                named[f"{attention}{letters}.{leaf}"] = tensor
                continue
            for letter, part in zip(letters, tensor.chunk(len(letters)), strict=True):
                named[f"{attention}{letter}.{leaf}"] = part.clone()
    return named


def split(tensors: Tensors, spelling: str) -> Tensors:
    """Original names with q, k and v split: `spelling` makes the name of a part from its letter."""
    apart: Tensors = {}
    for name, tensor in tensors.items():
        fused = re.match(r"(.*attn)\.(qkv|kv_linear)\.(\w+)", name)
        if fused:
            letters = fused[2].removesuffix("_linear")
            for letter, part in zip(letters, tensor.chunk(len(letters)), strict=True):
                apart[f"{fused[1]}.{spelling.format(letter)}.{fused[3]}"] = part.clone()
        else:
            query = spelling.format("q")
            apart[name.replace("cross_attn.q_linear", f"cross_attn.{query}")] = tensor
    return apart


def _pickled(make: Callable[[Tensors], object], suffix: str = ".pth", **options: bool):
    def write(folder: Path, weights: Tensors) -> Path:
        torch.save(make(weights), folder / f"model{suffix}", **options)
        return folder / f"model{suffix}"

    return write


def _safe(make: Callable[[Tensors], Tensors]):
    def write(folder: Path, weights: Tensors) -> Path:
        save_file(make(weights), folder / "model.safetensors")
        return folder / "model.safetensors"

    return write


def _prefixed(prefix: str, weights: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in weights.items()}


def _critic(weights: Tensors) -> Tensors:
    return {name: tensor + 1 for name, tensor in _prefixed("model.", weights).items()}


def _with_extras(weights: Tensors) -> Tensors:
    """What the original's files carry and no model uses."""
    extras = {name: torch.ones(3, 24) for name in ("pos_embed", "logvar_linear.weight", "logvar_linear.bias")}
    return weights | extras | {"y_embedder.y_embedding": Y_EMBEDDING}


def _transposed(weights: Tensors) -> Tensors:
    """The same values in another memory layout."""
    return {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in weights.items()}


def write_diffusers(folder: Path, weights: Tensors, **options: object) -> Path:
    """A folder that diffusers itself wrote."""
    from diffusers import SanaVideoTransformer3DModel

    model = SanaVideoTransformer3DModel.from_config(SanaVideoTransformer3DModel.load_config(CONFIG))
    model.load_state_dict(diffusers_named(weights), strict=True)
    model.to(next(iter(weights.values())).dtype).save_pretrained(folder, **options)
    return folder


def _sharded(folder: Path, weights: Tensors) -> Path:
    write_diffusers(folder, weights, max_shard_size="200KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def _pipeline(folder: Path, weights: Tensors) -> Path:
    write_diffusers(folder / "transformer", weights)
    (folder / "model_index.json").write_text("{}")
    return folder


def write_ours(folder: Path, weights: Tensors) -> Path:
    save_file(weights, folder / "plain.safetensors")
    checkpoint = read_checkpoint(folder / "plain.safetensors", config=CONFIG)
    save_transformer(folder / "ours.safetensors", checkpoint.tensors, checkpoint.config, "longsana_480p")
    return folder / "ours.safetensors"


FORMATS: dict[str, Callable[[Path, Tensors], Path]] = {
    "original": _pickled(lambda w: {"state_dict": w}),
    "original_with_progress": _pickled(lambda w: {"epoch": 3, "state_dict": w, "optimizer": {"lr": 0.1}}),
    "original_old_torch": _pickled(lambda w: {"state_dict": w}, _use_new_zipfile_serialization=False),
    "dump": _pickled(lambda w: {"generator": _prefixed("model.", w)}, ".pt"),
    "dump_with_critic": _pickled(
        lambda w: {"critic": _critic(w), "generator": _prefixed("model.", w), "step": 7}, ".pt"
    ),
    "dump_without_prefix": _pickled(lambda w: {"generator": w}, ".pt"),
    "flat": _pickled(lambda w: w),
    "flat_bin": _pickled(lambda w: w, ".bin"),
    "flat_other_layout": _pickled(_transposed),
    "parameters": _pickled(lambda w: {n: torch.nn.Parameter(t) for n, t in w.items()}, ".ckpt"),
    "upper_case_suffix": _pickled(lambda w: w, ".PTH"),
    "extras": _pickled(lambda w: {"state_dict": _with_extras(w)}),
    "extras_in_dump": _pickled(lambda w: {"generator": _prefixed("model.", _with_extras(w))}, ".pt"),
    "safetensors": _safe(dict),
    "comfyui_prefix": _safe(lambda w: _prefixed("model.diffusion_model.", w)),
    "split_plain": _safe(lambda w: split(w, "{}")),
    "split_to": _safe(lambda w: split(w, "to_{}")),
    "diffusers_names_in_a_file": _safe(diffusers_named),
    "diffusers_fused": _safe(lambda w: diffusers_named(w, fused=True)),
    "diffusers_fused_and_apart": _safe(lambda w: diffusers_named(w) | diffusers_named(w, fused=True)),
    "diffusers": write_diffusers,
    "diffusers_sharded": _sharded,
    "diffusers_pipeline": _pipeline,
    "ours": write_ours,
}


def assert_sentence(error: BaseException) -> None:
    """A message that an artist can read: one paragraph that ends in a full stop, without Python."""
    message = str(error)
    assert message.endswith("."), message
    assert len(message) < 600, message
    of_python = ("Traceback", "<class", "weights_only", "Error(s) in", "index out of", "NoneType")
    for foreign in ("\n", "\x1b", *of_python):
        assert foreign not in message, message


def refusal(call: Callable[[], object], kind: type | tuple[type, ...] = (FileError, InputError)) -> str:
    """The message with which a call refuses."""
    with pytest.raises(kind) as caught:
        call()
    assert_sentence(caught.value)
    return str(caught.value)


def cuts(length: int, *marks: int) -> list[int]:
    """Lengths to truncate a file to: near its start, around each mark, evenly spread, and near its end."""
    near = [mark + shift for mark in marks for shift in (-1, 0, 1)]
    spread = [length * i // 16 for i in range(16)]
    last = [length - gap for gap in (1, 2, 8, 21, 22, 23, 64, 100, 1000)]
    return sorted({n for n in (*range(10), 16, 64, 100, 200, *near, *spread, *last) if 0 <= n < length})
