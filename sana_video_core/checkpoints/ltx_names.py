"""Recognises LTX-2's video VAE in either spelling, puts its tensors under the original's names, and tells it
from its relatives.

A full LTX-2 checkpoint has it under “vae.”, beside other networks. Whether a decoder is causal can't be seen
in the weights: a config says it, or the file's name.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import LTX_2, LTX_2_3
from ..errors import FileError
from ..vae.ltx_config import LTX_2_3_SIZES, LtxConfig
from ..vae.ltx_network import DEVIATIONS, MEANS

# in every LTX video VAE, by the original and by diffusers
MARKS = (
    "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight",
    "decoder.mid_block.resnets.0.conv1.conv.weight",
)
# only in the VAEs of other versions -> which
RELATIVES = (
    (
        re.compile(
            r"scale_shift_table$|time_embedder\.|^decoder\.timestep_scale_multiplier$|per_channel_scale\d$"
        ),
        "the VAE of LTX-Video, which is told a time step",
    ),
    (
        re.compile(r"\.conv_shortcut\.|^encoder\.down_blocks\.\d+\.conv\.weight$"),
        "the VAE of an early LTX-Video",
    ),
)
# of LTX, without any of the marks
STRANGERS = (
    (re.compile(r"^decoder\.conv_in_x_t\."), "the diffusion decoder of a later LTX"),
    (re.compile(r"^(?:audio_vae|vocoder)\."), "LTX-2's audio VAE or vocoder"),
)
# statistics of other kinds, which nothing reads
DROPPED = re.compile(r"^per_channel_statistics\.(?:channel|mean-of-stds)")
STATISTICS = {
    "latents_mean": f"per_channel_statistics.{MEANS}",
    "latents_std": f"per_channel_statistics.{DEVIATIONS}",
}
BLOCK = re.compile(
    r"^(encoder|decoder)\.(?:mid_block|(?:down|up)_blocks\.(\d+))"
    r"\.(?:(resnets\.)|(?:down|up)samplers\.0\.)"
)
FIRST_MEAN = 0.0222168  # of LTX-2.3's latents
CAUSAL_CLASS = "AutoencoderKLCausalLTX2Video"
USE = f"Use {LTX_2.files} for the 720p model, {LTX_2_3.files} for SANA-Video 2.0."

logger = logging.getLogger("sana_video")


def is_ltx(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of an LTX video VAE of any version."""
    return any(mark in tensors for mark in MARKS)


def refuse_relatives(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises FileError for what belongs to LTX but is no LTX-2 or LTX-2.3 video VAE."""
    for sign, relative in RELATIVES if is_ltx(tensors) else STRANGERS:
        if any(map(sign.search, tensors)):
            raise FileError(f"“{path.name}” is {relative}, and no LTX-2 video VAE. {USE}")


def canonical_ltx(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an LTX-2 VAE under the original's names, without unused ones."""
    named = {name: tensor for name, tensor in tensors.items() if not DROPPED.match(name)}
    if MARKS[1] not in tensors:
        return named
    blocks = [found for name in named if (found := BLOCK.match(name))]
    levels = len({found[2] for found in blocks if found[1] == "encoder" and found[2]})

    def counted(match: re.Match[str]) -> str:
        """diffusers counts levels, and calls the coarsest one the middle; the original counts layers."""
        part, level, resnets = match.groups()
        if part == "encoder":
            layer = 2 * (levels if level is None else int(level)) + (not resnets)
            return f"encoder.down_blocks.{layer}.{'res_blocks.' if resnets else ''}"
        layer = 0 if level is None else 2 * int(level) + 1 + bool(resnets)
        return f"decoder.up_blocks.{layer}.{'res_blocks.' if resnets else ''}"

    return {STATISTICS.get(name) or BLOCK.sub(counted, name): tensor for name, tensor in named.items()}


def says_causal(path: Path, metadata: Mapping[str, str], beside: Mapping[str, Any]) -> bool:
    """Whether the decoder of this file is causal: by the config in it or beside it, or by its name."""
    if beside.get("_class_name") == CAUSAL_CLASS:
        return True
    said = beside.get("decoder_causal", _config_in(metadata).get("causal_decoder"))
    if said is not None:
        return bool(said)
    if "causal" not in path.name.lower():
        return False
    logger.warning(
        "“%s” has no config; by its name it is read as the causal LTX-2 VAE. If pictures smear, remove "
        "“causal” from its name.",
        path.name,
    )
    return True


def warn_of_others(path: Path, tensors: Mapping[str, Tensor], config: LtxConfig) -> None:
    """A later VAE has LTX-2.3's sizes and another latent space; only the statistics show it."""
    first = float(tensors[STATISTICS["latents_mean"]][0])
    published = replace(config, causal=False) == LTX_2_3_SIZES
    if published and abs(first - FIRST_MEAN) > 1e-3 * FIRST_MEAN:
        logger.warning(
            "“%s” has the sizes of the %s VAE, but other statistics (LTX-2.5's has these sizes, too). "
            "If pictures look wrong, use %s.",
            path.name,
            LTX_2_3.name,
            LTX_2_3.files,
        )


def _config_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The VAE's entries of the config that original files carry."""
    try:
        entries = json.loads(metadata.get("config", "{}")).get("vae", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}
