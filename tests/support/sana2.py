"""The small SANA-Video 2.0 of the golden tensors."""

from __future__ import annotations

import json
from functools import cache

from safetensors.torch import load_file
from support.pack import DATA, Pack
from torch import Tensor

GOLDEN2 = DATA / "sana2"
DEAD = ("pos_embed", "y_embedder.y_embedding")  # buffers that the network never reads


@cache
def golden2(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN2 / f"{name}.safetensors")


def config2(pack: Pack):
    """The sizes of the golden model, from the original's names."""
    sizes = json.loads((GOLDEN2 / "config.json").read_text())
    width = sizes["hidden_size"]
    return pack.core("config").Sana2Config(
        channels=sizes["in_channels"],
        patch=1,
        width=width,
        depth=sizes["depth"],
        head_dim=sizes["linear_head_dim"],
        softmax_head_dim=sizes["softmax_head_dim"],
        cross_head_dim=width // sizes["num_heads"],
        ffn_hidden=int(width * sizes["mlp_ratio"]),
        caption_channels=sizes["caption_channels"],
        group=sizes["attn_res_block_size"],
    )


def model2(pack: Pack, family: str = "sana_video2_720p"):
    """The golden model, without a checkpoint's loader."""
    model = pack.core("transformer.model2").SanaVideo2(config2(pack), pack.core("config").FAMILIES[family])
    weights = {name: tensor.clone() for name, tensor in golden2("weights").items() if name not in DEAD}
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)
