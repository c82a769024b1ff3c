"""Reads the noise that a clip starts from, so that a picture of another program can be compared."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import FileError
from .tensor_file import read_safetensors, read_saved
from .weight_names import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES

SAFETENSORS = (*SAFETENSORS_SUFFIXES, ".latent")


def read_noise(path: Path) -> Tensor:
    """The one tensor [1 or B, C, F, H, W] of a file, float32, as it is: nothing is scaled.

    Takes .safetensors, ComfyUI's .latent, and what torch.save writes. Raises FileError for a file without
    such a tensor, or with several.
    """
    kind = path.suffix.lower()
    if kind not in (*SAFETENSORS, *PICKLE_SUFFIXES):
        raise FileError(
            f"“{path.name}” is not a kind of file that holds noise: use one of "
            f"{', '.join((*SAFETENSORS, *PICKLE_SUFFIXES))}."
        )
    tensors = read_safetensors(path)[0] if kind in SAFETENSORS else _named(read_saved(path))
    found = [name for name, tensor in tensors.items() if tensor.ndim == 5 and tensor.is_floating_point()]
    if len(found) != 1:
        held = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:5])
        raise FileError(
            f"“{path.name}” has to hold one tensor [1, channels, latent frames, rows, columns] of noise, "
            f"and it holds {len(found)} of that kind ({held or 'nothing'}). Save the noise alone."
        )
    return tensors[found[0]].to(torch.float32, copy=True)  # mapped tensors would change with the file


def _named(content: object) -> dict[str, Tensor]:
    """The tensors of a pickle; one without a name is called noise."""
    named = content if isinstance(content, dict) else {"noise": content}
    return {str(name): value for name, value in named.items() if isinstance(value, Tensor)}
