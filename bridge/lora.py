"""What the LoRA loader does. Imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.lora
import torch

from ..sana_video_core.checkpoints.lora_apply import applied_lora
from ..sana_video_core.checkpoints.lora_file import read_lora
from .changes import NamedChanges
from .stream_model import HostedModel

PREFIX = "diffusion_model."
TABLE = "scale_shift_table"


def with_lora(patcher: Any, path: Path, strength: float) -> Any:
    """A clone of a MODEL with a file's LoRA."""
    HostedModel(patcher)  # refuses another network
    shapes = {name: tensor.shape for name, tensor in patcher.model.diffusion_model.state_dict().items()}
    lora = read_lora(path, shapes)
    places = {
        module: PREFIX + target.parameter
        if target.rows is None
        else (PREFIX + target.parameter, (0, *target.rows))
        for module, target in lora.targets.items()
    }
    patches = comfy.lora.load_lora(lora.tensors, places)
    changed, named = patcher.clone(), NamedChanges.of(patcher)
    tables = {key: patches.pop(key) for key in list(patches) if isinstance(key, str) and key.endswith(TABLE)}
    changed.add_patches(patches, strength)
    for key, patch in tables.items():
        _patch_table(changed, key, patch, strength)
    named.after(changed, applied_lora(lora, path, strength), tables).remember(changed)
    return changed


def _patch_table(patcher: Any, key: str, patch: Any, strength: float) -> None:
    """Replace a table as a whole: ComfyUI's patching silently skips parameters outside of layers."""
    table = patcher.get_model_object(key)
    patches = [(strength, patch, 1.0, None, None)]
    weight = comfy.lora.calculate_weight(patches, table.detach().float().clone(), key)
    patcher.add_object_patch(key, torch.nn.Parameter(weight.to(table.dtype), requires_grad=False))
