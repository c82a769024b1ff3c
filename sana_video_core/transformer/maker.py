"""Who makes chunks: what decides their bits, apart from a model's file and the inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from .compute import compute_tag
from .ops import Choice


class AppliedLora(NamedTuple):
    """A LoRA that changes a model."""

    name: str
    content: str  # hex sha256 of what it changes, however its file spells it
    strength: float

    @property
    def label(self) -> str:
        """As histories name it."""
        return f"{self.name} {self.strength:g}"


class Maker(NamedTuple):
    """A model as it stands, besides its file."""

    loras: tuple[AppliedLora, ...] = ()  # in their order
    compute: str = ""  # one line, see compute_tag
    unnamed: str = ""  # other changes of the weights, by a name that holds in this process only

    @property
    def labels(self) -> tuple[str, ...]:
        return *(lora.label for lora in self.loras), *(("unnamed",) if self.unnamed else ())

    @property
    def weights(self) -> str:
        """sha256 over all changes of the file's weights; "" without any."""
        if not self.loras and not self.unnamed:
            return ""
        contents = [[lora.content, float(lora.strength).hex()] for lora in self.loras]
        return hashlib.sha256(json.dumps([contents, self.unnamed]).encode("ascii")).hexdigest()


class Network(Protocol):
    """`SanaVideo`, also where a host moves and casts its weights."""

    @property
    def compute_device(self) -> torch.device: ...
    @property
    def compute_dtype(self) -> torch.dtype: ...
    def kernel_choice(self, device: torch.device, dtype: torch.dtype) -> Choice: ...


def maker_of(network: Network, loras: Sequence[AppliedLora], unnamed: str = "") -> Maker:
    """A network's with these LoRAs in its weights."""
    device, dtype = network.compute_device, network.compute_dtype
    choice = network.kernel_choice(device, dtype)
    kernels, precision = "triton" if choice.triton else "plain", "fp8" if choice.fp8 else "full"
    return Maker(tuple(loras), compute_tag(device, dtype, kernels, precision), unnamed)
