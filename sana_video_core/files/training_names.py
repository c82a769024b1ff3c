"""What training adds to the names of weights, anywhere in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from ..errors import FileError

T = TypeVar("T")
# wrappers' modules: DistributedDataParallel and DeepSpeed, FSDP (and FairScale's), torch.compile, activation
# checkpointing, Lightning Fabric, Opacus
WRAPPERS = frozenset(
    (
        "module",
        "_fsdp_wrapped_module",
        "_fpw_module",
        "_orig_mod",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_original_module",
        "_module",
    )
)
# the same in names with underscores for dots, as kohya's trainers write them
FLAT_WRAPPER = re.compile(
    r"(?<![a-z])(?:_?(?:fsdp_wrapped|fpw|checkpoint_wrapped|forward)_module|_?orig_mod|module)_"
)
AVERAGES = "n_averaged"  # torch's AveragedModel counts in it
FLAT_PARAMETER = "flat_param"  # FSDP's own form: all of a module's weights in one row


def unwrapped_name(name: str) -> str:
    """A name without the wrappers of training."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrapped(tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors under names without wrappers. Raises FileError if two get one name, or FSDP flattened them."""
    out: dict[str, T] = {}
    for name, tensor in tensors.items():
        bare = unwrapped_name(name)
        if bare == AVERAGES:
            continue
        if bare in out:
            raise FileError(
                f"The file holds {bare} twice, with and without the names that training adds. "
                "Save one network to its own file."
            )
        if FLAT_PARAMETER in bare:
            raise FileError(
                f"The file holds FSDP's flattened weights ({name}), which only its training can take "
                "apart. Save it again with FSDP's full state dict."
            )
        out[bare] = tensor
    return out
