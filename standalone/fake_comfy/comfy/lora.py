"""LoRAs of a patcher. The core changes the weights, bit for bit as ComfyUI does."""

from comfyui_sana_video.sana_video_core.checkpoints.lora_apply import (  # pyright: ignore[reportMissingImports]
    WeightChange,
    changed_weight,
    parts_of_modules,
)


def load_lora(lora, to_load):
    """Patches by what they change. `to_load`: module -> a weight's key, or key and (0, first row, count)."""
    return {to_load[module]: parts for module, parts in parts_of_modules(lora).items()}


def calculate_weight(patches, weight, key):
    """`weight` after its patches, which are as a patcher keeps them."""
    return changed_weight(
        weight, [WeightChange(parts, strength, rows and rows[1:]) for strength, parts, _, rows, _ in patches]
    )
