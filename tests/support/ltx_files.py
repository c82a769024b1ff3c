"""Files of small LTX video VAEs with random weights: the published form, with 128 latent channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {
    "LTX-2": {
        "encoder_widths": (8, 16, 32, 64, 128),
        "encoder_blocks": (1, 1, 1, 1, 1),
        "decoder_widths": (64, 32, 16, 8),
        "decoder_blocks": (1, 2, 1, 1),
    },
    "LTX-2.3": {
        "encoder_widths": (8, 16, 32, 64, 64),
        "encoder_blocks": (1, 1, 1, 1, 1),
        "decoder_widths": (64, 32, 32, 16, 8),
        "decoder_blocks": (1, 1, 2, 1, 1),
    },
}


def write_ltx(path: Path, name: str, pack: Callable[[str], Any], **changes: Any) -> Path:
    """The file of a VAE of one of SIZES. `pack` imports a module of ours by its name."""
    import torch
    from safetensors.torch import save_file

    config = pack("sana_video_core.vae.ltx_config")
    ups = {} if name == "LTX-2" else {"ups": config.LTX_2_3_SIZES.ups}
    sizes = config.LtxConfig(**SIZES[name] | ups | changes)
    vae = pack("demo.model_set").seeded(pack("sana_video_core.vae.ltx_vae").LtxVAE(sizes), 3)
    tensors = vae.state_dict()
    for key in tensors:
        if "std-of-means" in key:
            tensors[key] = 1 + tensors[key].abs()
    save_file({key: tensor.to(torch.bfloat16) for key, tensor in tensors.items()}, path)
    return path
