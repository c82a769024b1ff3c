"""Translates the key names of every kind of checkpoint to the original's. Data first, then functions.

The original fuses q, k, v (and k, v of the cross-attention) into one tensor; diffusers keeps them apart or,
after `fuse_qkv_projections`, fuses them under its own names. No tensor is ever transposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import FileError
from ..files.training_names import unwrapped

PREFIXES = (
    "model.diffusion_model.",
    *(
        f"{name}."
        for name in ("diffusion_model", "model", "transformer", "generator", "net", "network", "dit")
    ),
)
DROPPED = re.compile(r"^(y_embedder\.y_embedding|pos_embed|logvar_linear\..*)$")

# diffusers -> original, as prefixes of a name
TRANSFORMER_NAMES = (
    (r"^patch_embedding\.", "x_embedder.proj."),
    (r"^caption_projection\.linear_1\.", "y_embedder.y_proj.fc1."),
    (r"^caption_projection\.linear_2\.", "y_embedder.y_proj.fc2."),
    (r"^time_embed\.emb\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
    (r"^time_embed\.emb\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
    (r"^time_embed\.linear\.", "t_block.1."),
    (r"^caption_norm\.", "attention_y_norm."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^scale_shift_table$", "final_layer.scale_shift_table"),
    (r"^transformer_blocks\.(\d+)\.attn1\.norm_([qk])\.", r"blocks.\1.attn.\2_norm."),
    (r"^transformer_blocks\.(\d+)\.attn1\.to_out\.0\.", r"blocks.\1.attn.proj."),
    (r"^transformer_blocks\.(\d+)\.attn1\.to_qkv\.", r"blocks.\1.attn.qkv."),
    (r"^transformer_blocks\.(\d+)\.attn1\.to_([qkv])\.", r"blocks.\1.attn.\2."),
    (r"^transformer_blocks\.(\d+)\.attn2\.norm_([qk])\.", r"blocks.\1.cross_attn.\2_norm."),
    (r"^transformer_blocks\.(\d+)\.attn2\.to_out\.0\.", r"blocks.\1.cross_attn.proj."),
    (r"^transformer_blocks\.(\d+)\.attn2\.to_q\.", r"blocks.\1.cross_attn.q_linear."),
    (r"^transformer_blocks\.(\d+)\.attn2\.to_kv\.", r"blocks.\1.cross_attn.kv_linear."),
    (r"^transformer_blocks\.(\d+)\.attn2\.to_([kv])\.", r"blocks.\1.cross_attn.\2."),
    (r"^transformer_blocks\.(\d+)\.ff\.conv_inverted\.", r"blocks.\1.mlp.inverted_conv.conv."),
    (r"^transformer_blocks\.(\d+)\.ff\.conv_depth\.", r"blocks.\1.mlp.depth_conv.conv."),
    (r"^transformer_blocks\.(\d+)\.ff\.conv_point\.", r"blocks.\1.mlp.point_conv.conv."),
    (r"^transformer_blocks\.(\d+)\.ff\.conv_temp\.", r"blocks.\1.mlp.t_conv."),
    (r"^transformer_blocks\.(\d+)\.scale_shift_table$", r"blocks.\1.scale_shift_table"),
    # original names with q, k, v kept apart
    (r"^(blocks\.\d+\.attn)\.to_([qkv])\.", r"\1.\2."),
    (r"^(blocks\.\d+\.cross_attn)\.(?:to_)?q\.", r"\1.q_linear."),
    (r"^(blocks\.\d+\.cross_attn)\.(?:to_)?([kv])(?:_linear)?\.", r"\1.\2."),
)
# parts, in the order of the fused rows -> fused
FUSED = (
    (re.compile(r"^(blocks\.\d+\.attn)\.q\.(weight|bias)$"), ("q", "k", "v"), "qkv"),
    (re.compile(r"^(blocks\.\d+\.cross_attn)\.k\.(weight|bias)$"), ("k", "v"), "kv_linear"),
)

# names of modules with underscores for dots, as kohya's trainers write them
FLAT_TRANSFORMER_NAMES = tuple(
    (pattern.replace(r"\.", "_"), replacement) for pattern, replacement in TRANSFORMER_NAMES
)

VAE_NAMES = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"^(encoder|decoder)\.conv_in\.", r"\1.conv1."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.head.0."),
    (r"^(encoder|decoder)\.conv_out\.", r"\1.head.2."),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.middle.1."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.middle.0."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.middle.2."),
    (r"^encoder\.down_blocks\.", "encoder.downsamples."),
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.(?=(weight|bias)$)", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.(?=(weight|bias)$)", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
DECODER_LEVEL = re.compile(r"^decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.")
TOP_CONVOLUTION = re.compile(r"^(conv1|conv2|encoder\.conv1|decoder\.conv1)\.")


def canonical_transformer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transformer tensors of any spelling under original names, fused and without unused ones."""
    renamed = {_renamed(name, TRANSFORMER_NAMES): tensor for name, tensor in without_prefix(tensors).items()}
    for pattern, parts, fused in FUSED:
        for name in [name for name in renamed if pattern.match(name)]:
            stem, leaf = pattern.match(name).groups()  # pyright: ignore[reportOptionalMemberAccess]
            names = [f"{stem}.{part}.{leaf}" for part in parts]
            if all(part in renamed for part in names):
                renamed[f"{stem}.{fused}.{leaf}"] = _side_by_side({part: renamed.pop(part) for part in names})
    return {name: tensor for name, tensor in renamed.items() if not DROPPED.match(name)}


def canonical_module(name: str, *, flat: bool = False) -> str:
    """The original's name for a module or parameter in any spelling, without prefix.

    A `flat` name has underscores for dots. What needs no translation keeps them.
    """
    table, dot = (FLAT_TRANSFORMER_NAMES, "_") if flat else (TRANSFORMER_NAMES, ".")
    name = _renamed(name, table)  # the tables, whose names end there
    return _renamed(name + dot, table)[:-1]


def fused_parts(parameter: str) -> list[str]:
    """The parts whose rows, in this order, make a fused parameter; none for any other."""
    module, _, leaf = parameter.rpartition(".")
    for pattern, parts, fused in FUSED:
        names = [f"{module.removesuffix(fused)}{part}.{leaf}" for part in parts]
        if module.endswith(f".{fused}") and pattern.match(names[0]):
            return names
    return []


def _side_by_side(parts: Mapping[str, Tensor]) -> Tensor:
    """Parts of one shape as the rows of one tensor."""
    shapes = [list(part.shape) for part in parts.values()]
    if [] in shapes or any(shape != shapes[0] for shape in shapes):
        raise FileError(
            f"The tensors {', '.join(parts)} have the shapes {', '.join(map(str, shapes))}, but they have to "
            "be of one shape. The file is damaged or of another model; copy or download it again."
        )
    return torch.cat(list(parts.values()))


def canonical_vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wan 2.1 VAE tensors under the original's names, which ComfyUI keeps and diffusers changes."""
    if "encoder.conv_in.weight" not in tensors:
        return dict(tensors)
    return {_vae_name(name): tensor for name, tensor in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without training's wrappers, and without the prefixes of hosts that they all share."""
    tensors = unwrapped(tensors)
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return without_prefix({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _vae_name(name: str) -> str:
    """diffusers counts a decoder's layers level by level, the original throughout, upsampler last."""

    def counted(match: re.Match[str]) -> str:
        level, layer = match.groups()
        return f"decoder.upsamples.{int(level) * 4 + int(layer or 3)}."

    name = DECODER_LEVEL.sub(counted, name)
    top = _renamed(name, VAE_NAMES[:8])
    return top if TOP_CONVOLUTION.match(top) else _renamed(top, VAE_NAMES[8:])
