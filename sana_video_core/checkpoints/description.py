"""What a checkpoint says of itself: sizes by its tensors, the rest by arguments, metadata, config.json.

The weights show neither the size of a head nor whether a model is block-causal, nor how many blocks there
should be.
"""

from __future__ import annotations

import logging
import re
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import FAMILIES, Family, Sana2Config, TransformerConfig, family_named
from ..errors import FileError, InputError
from ..files.places import is_folder
from ..files.tensor_file import parse_json, read_json

logger = logging.getLogger("sana_video")

FORMAT = "sana_video"
VERSION = 1
PUBLISHED_HEAD = 112
CAUSAL_CLASS = "SanaVideoCausalTransformer3DModel"
# as the four-step weights of SANA-Video 2.0 are named: …_4step.pth; trainings write epoch_4_step_12000.pth
FOUR_STEPS = re.compile(
    r"(?<!\d)(?<!epoch)(?<!epoch.)4[-_ ]?steps?(?![a-z])|four[-_ ]?steps?|(?<![a-z])dmd|distill"
)
BLOCK = re.compile(r"blocks\.(\d{1,6})\.")


def described(
    config: Mapping[str, Any] | Path | str | None,
    metadata: Mapping[str, str],
    beside: Mapping[str, Any],
    path: Path,
) -> ChainMap[str, Any]:
    """All that is said of a checkpoint: by an argument, in its metadata, in the config.json beside it."""
    sources = (_config_argument(config), _metadata_config(metadata, path), beside)  # earlier ones win
    return ChainMap(*(dict(source) for source in sources))


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


def sizes_of(tensors: Mapping[str, Tensor], entries: Mapping[str, Any], path: Path) -> TransformerConfig:
    """The sizes that the tensors show; that of a head by the config, or as in a known model of these sizes.

    Raises FileError for a file with fewer or more blocks than the config or the known model has.
    """
    width, channels, _, patch, _ = shape_of(tensors, "x_embedder.proj.weight", 5, path)
    _, ffn_hidden, *_ = shape_of(tensors, "blocks.0.mlp.point_conv.conv.weight", 4, path)
    _, caption_channels = shape_of(tensors, "y_embedder.y_proj.fc1.weight", 2, path)
    shown = {
        "channels": channels,
        "patch": patch,
        "width": width,
        "ffn_hidden": ffn_hidden,
        "caption_channels": caption_channels,
    }
    configs = (f.config for f in FAMILIES.values() if not isinstance(f.config, Sana2Config))
    known = next((c for c in configs if all(getattr(c, name) == size for name, size in shown.items())), None)
    head = whole_number(entries, "attention_head_dim", path)
    if head is None and known is None and width % PUBLISHED_HEAD:
        raise FileError(
            f"“{path.name}” does not say its head size, and its width {width} is not a multiple of the "
            f"published {PUBLISHED_HEAD}. Put the model's config.json beside it, or give one (--config)."
        )
    if head is None:
        head = PUBLISHED_HEAD if known is None else known.head_dim
    cross_head = whole_number(entries, "cross_attention_head_dim", path)
    depth = whole_number(entries, "num_layers", path)
    if depth is None and known is not None:
        depth = known.depth
    return TransformerConfig(
        **shown,
        depth=checked_depth(tensors, depth, path),
        head_dim=head,
        cross_head_dim=head if cross_head is None else cross_head,
    )


def checked_depth(tensors: Mapping[str, Tensor], expected: int | None, path: Path) -> int:
    """How many blocks there are. Refuses a file whose last ones are missing: nothing else would show that."""
    found = len({match[1] for name in tensors if (match := BLOCK.match(name))})
    if expected is None:
        logger.warning(
            "“%s” has %d blocks, and nothing says how many there should be: "
            "it has the sizes of no published model, and no config.json says it.",
            path.name,
            found,
        )
    elif found != expected:
        problem = "isn't whole" if found < expected else "doesn't fit its config"
        raise FileError(
            f"“{path.name}” {problem}: it has {found} blocks of {expected}. Copy or download it again; "
            "if it is a model with fewer blocks, its own config.json has to say so (num_layers)."
        )
    return found


def shape_of(tensors: Mapping[str, Tensor], name: str, axes: int, path: Path) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read off."""
    if name not in tensors or tensors[name].ndim != axes:
        problem = f"has {tensors[name].ndim} axes instead of {axes}" if name in tensors else "is missing"
        raise FileError(
            f"“{path.name}” isn't a complete SANA-Video transformer: {name} {problem}. "
            "Use the whole published file of a video model."
        )
    return tuple(tensors[name].shape)


def whole_number(entries: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = entries.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(
        f"The config for “{path.name}” says {key}: {repr(value)[:100]}, which isn't a whole number. "
        "Correct it, or use the model's own config.json."
    )


def family_of(name: str | None, entries: Mapping[str, Any], sizes: TransformerConfig, path: Path) -> Family:
    """The family by name, else by diffusers' class and the file's name, as diffusers' converter does."""
    stated = entries.get("family") if name is None else name
    if stated is not None:
        family = family_named(
            stated if isinstance(stated, str) and stated.isprintable() else repr(stated)[:100]
        )
    elif isinstance(sizes, Sana2Config):
        family = FAMILIES["sana_video2_720p_4step" if _says_four_steps(path) else "sana_video2_720p"]
    elif sizes.patch == 1:
        family = FAMILIES["sana_video_720p"]
    else:
        known_causal = entries.get("_class_name") == CAUSAL_CLASS
        named_causal = any(word in _name(path) for word in ("longlive", "longsana"))
        family = FAMILIES["longsana_480p" if known_causal or named_causal else "sana_video_480p"]
    _check_generation(family, sizes, path)
    if isinstance(sizes, Sana2Config):  # its names show what it is, so it may be of any size
        if sizes.channels != family.config.channels:
            logger.warning(
                "“%s” has %d latent channels: what it makes can't be decoded by the %s VAE, which has %d.",
                path.name,
                sizes.channels,
                family.vae.name,
                family.config.channels,
            )
        return family
    if (sizes.channels, sizes.patch) != (family.config.channels, family.config.patch):
        raise InputError(
            f"“{path.name}” has {sizes.channels} latent channels in patches of {sizes.patch}, but the "
            f"family {family.name} has {family.config.channels} in patches of {family.config.patch}. "
            "Choose the family that belongs to this file."
        )
    return family


def _name(path: Path) -> str:
    """A file's name in small letters; a folder's with that of the one that holds it."""
    return (f"{path.parent.name}/{path.name}" if is_folder(path) else path.name).lower()


def _says_four_steps(path: Path) -> bool:
    return FOUR_STEPS.search(_name(path)) is not None


def _check_generation(family: Family, sizes: TransformerConfig, path: Path) -> None:
    """Raises InputError for a family whose network has other layers than the file."""
    newer = isinstance(sizes, Sana2Config)
    if newer == isinstance(family.config, Sana2Config):
        return
    fitting = [f.name for f in FAMILIES.values() if isinstance(f.config, Sana2Config) == newer]
    raise InputError(
        f"“{path.name}” is {'' if newer else 'not '}a SANA-Video 2.0 checkpoint, and the family "
        f"{family.name} is {'not ' if newer else ''}of that network. "
        f"Choose auto, or one of: {', '.join(fitting)}."
    )
