"""What the LoRA loader does. Imported when it runs."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from ..sana_video_core.checkpoints.lora_file import lora_name, read_lora
from ..sana_video_core.errors import InputError
from ..sana_video_core.transformer.maker import AppliedLora
from .stream_model import LORAS, HostedModel

PREFIX = "diffusion_model."
TABLE = "scale_shift_table"


def with_lora(patcher: Any, path: Path, strength: float) -> Any:
    """A clone of a MODEL with a file's LoRA."""
    try:
        import comfy.lora  # pyright: ignore[reportMissingImports]  only ComfyUI has it
    except ImportError as error:
        raise InputError(
            "LoRAs are applied by ComfyUI. Run this workflow there (sana-video run … --server URL)."
        ) from error
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
    changed = patcher.clone()
    tables = {key: patches.pop(key) for key in list(patches) if isinstance(key, str) and key.endswith(TABLE)}
    changed.add_patches(patches, strength)
    for key, patch in tables.items():
        _patch_table(changed, key, patch, strength, comfy.lora.calculate_weight)
    applied = AppliedLora(lora_name(path), sha256(path.read_bytes()).hexdigest(), strength)
    changed.set_attachments(LORAS, (*(patcher.get_attachment(LORAS) or ()), applied))
    return changed


def _patch_table(patcher: Any, key: str, patch: Any, strength: float, calculate: Any) -> None:
    """Replace a table as a whole: ComfyUI's patching silently skips parameters outside of layers."""
    table = patcher.get_model_object(key)
    weight = calculate([(strength, patch, 1.0, None, None)], table.detach().float().clone(), key)
    patcher.add_object_patch(key, torch.nn.Parameter(weight.to(table.dtype), requires_grad=False))
