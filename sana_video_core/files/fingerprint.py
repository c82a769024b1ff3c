"""Identifies weights: sha256 over sorted names, shapes and a fixed sample of each tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

SAMPLES = 64  # values per tensor: enough to tell two trainings apart, few enough for 500 tensors


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 of weights under their canonical names.

    Values are hashed as float32, so a file and its exact copy in a wider type have the same fingerprint.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(_sample(tensor).numpy().tobytes())
    return digest.hexdigest()


def _sample(tensor: Tensor) -> Tensor:
    """Up to `SAMPLES` evenly spaced values of a tensor, first and last included."""
    flat = tensor.detach().reshape(-1)
    count = min(SAMPLES, flat.numel())
    places = [i * (flat.numel() - 1) // max(1, count - 1) for i in range(count)]
    return flat[torch.tensor(places, dtype=torch.long, device=flat.device)].to("cpu", torch.float32)
