"""Recognises the files of tiny decoders by their names and sizes: the two that we read, and those of others.

taew2_1, lighttaew2_1 and a few decoders of other models are one network with one set of names. What the
weights are for is said by the file's name, and, where that says nothing, by its type: taew2_1 is published in
float16, lighttaew2_1 in float32.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError
from ..vae.tiny_decoder import LIGHTTAEW2_1, TAEW2_1

LAST = "decoder.22.bias"  # in every spelling it ends with this, after any prefix
PREFIX_OF_PART = r"(?:en|de)coder\."
BARE = re.compile(r"\d+\.")  # a decoder that was saved alone
# a block of three convolutions, of TAESD and its kin for pictures
PICTURE_BLOCK = re.compile(rf"(?:^|[._])(?:{PREFIX_OF_PART})?(?:layers\.)?\d+\.conv\.\d+\.weight$")
TINY_WAN_CLASS = "AutoencoderTinyWan"  # VideoX-Fun's, a folder in the layout of diffusers
USE = (
    "Use taew2_1.safetensors (github.com/madebyollin/taehv) or lighttaew2_1.safetensors "
    "(lightx2v/Autoencoders on Hugging Face)."
)
# by latent channels
OTHERS = {
    24: "MiniMax H3 (taeh3)",
    32: "HunyuanVideo 1.5 (taehv1_5, lighttaehy1_5)",
    48: "Wan 2.2 5B (taew2_2, lighttaew2_2)",
    128: "LTX-2 (taeltx; the 720p family decodes with the whole LTX-2 VAE)",
}
# of the same sizes as taew2_1, by their files' names
NAMESAKES = {"taehv": "HunyuanVideo", "taecvx": "CogVideoX", "taeos": "Open-Sora"}

logger = logging.getLogger("sana_video")


def tiny_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A tiny video decoder's tensors, and its encoder's, under TAEHV's names; None for others."""
    if LAST.removeprefix("decoder.") in tensors and all(BARE.match(name) for name in tensors):
        return {f"decoder.{name}": tensor for name, tensor in tensors.items()}
    prefix = next((name.removesuffix(LAST) for name in tensors if name.endswith(LAST)), None)
    if prefix is None:
        return None
    part = re.compile(re.escape(prefix) + rf"(?={PREFIX_OF_PART})")
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if part.match(name)}


def is_of_pictures(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of TAESD or its kin."""
    return any(PICTURE_BLOCK.search(name) for name in tensors)


def kind_of(name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """Which of KINDS the file `name` is, from `tiny_tensors` and the config.json of its folder.

    Raises FileError for the tiny decoder of another model.
    """
    other = other_model(name, {key: tensor.shape for key, tensor in tensors.items()})
    if other:
        raise FileError(f"“{name}” is {not_ours(other)}")
    if config.get("_class_name") == TINY_WAN_CLASS:
        return TAEW2_1
    said = said_kind(name)
    if said:
        return said
    kind = TAEW2_1 if tensors["decoder.1.weight"].dtype == torch.float16 else LIGHTTAEW2_1
    logger.warning(
        "“%s” doesn't say by its name which draft decoder it is; by its type it is read as %s. If its "
        "colours are wrong, name it after the other one (%s).",
        name,
        kind,
        LIGHTTAEW2_1 if kind == TAEW2_1 else TAEW2_1,
    )
    return kind


def said_kind(name: str) -> str | None:
    """Which of KINDS a file's name says that it is, if it says so."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    if "lighttae" in letters:
        return LIGHTTAEW2_1
    return TAEW2_1 if "taew21" in letters else None


def not_ours(other: str) -> str:
    """What to say of the tiny decoder of another model."""
    return f"a tiny decoder of {other}, and can't show Wan 2.1's latents. {USE}"


def other_model(name: str, shapes: Mapping[str, Sequence[int]]) -> str:
    """The model of which the tiny decoder in the file `name` is; empty for one of ours."""
    name, first = name.lower(), shapes.get("decoder.1.weight")
    entry = shapes.get("decoder.0.weight") if first is None else first  # “super” has a convolution there
    channels = entry[1] if entry is not None and len(entry) > 1 else 0
    if channels in OTHERS:
        return OTHERS[channels]
    if first is None or channels != 16:
        return f"another model ({channels or 'unknown'} latent channels, {len(shapes)} tensors)"
    if "taew2" in name or "lighttae" in name:
        return ""
    return next((model for sign, model in NAMESAKES.items() if sign in name), "")
