"""LoRA files of every spelling for small weights, what a host does with our result, and what is expected."""

from __future__ import annotations

from functools import partial
from math import prod

import torch
from comfyui_sana_video.sana_video_core.checkpoints.keys import canonical_transformer
from support.checkpoint_files import WEIGHTS, diffusers_named, split

SHAPES = {name: tensor.shape for name, tensor in WEIGHTS.items()}
RANK = 4
SCALE = 0.5  # alpha / rank; a power of two, so that scaling before or after is bit-identical

NAMINGS = {
    "original": dict,
    "original_split": partial(split, spelling="{}"),
    "original_split_to": partial(split, spelling="to_{}"),
    "diffusers": diffusers_named,
    "diffusers_fused": partial(diffusers_named, fused=True),
}
# prefix, suffixes of A and B, whether dots become underscores
STYLES = {
    "bare": ("", "lora_A.weight", "lora_B.weight", False),
    "bare_up_down": ("", "lora.down.weight", "lora.up.weight", False),
    "no_weight": ("", "lora_A", "lora_B", False),
    "linear_layer": ("transformer.", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight", False),
    "peft": ("base_model.model.", "lora_A.weight", "lora_B.weight", False),
    "peft_adapter": ("base_model.model.", "lora_A.default.weight", "lora_B.default.weight", False),
    "peft_in_model": (
        "base_model.model.model.",
        "lora_A.my-style_2.weight",
        "lora_B.my-style_2.weight",
        False,
    ),
    "diffusers": ("transformer.", "lora_A.weight", "lora_B.weight", False),
    "comfyui": ("diffusion_model.", "lora_down.weight", "lora_up.weight", False),
    "model": ("model.", "lora_A.weight", "lora_B.weight", False),
    "whole_host": ("model.diffusion_model.", "lora_A.weight", "lora_B.weight", False),
    "kohya": ("lora_unet_", "lora_down.weight", "lora_up.weight", True),
    "kohya_wan": ("lora_unet__", "lora_down.weight", "lora_up.weight", True),
    "onetrainer": ("lora_transformer_", "lora_down.weight", "lora_up.weight", True),
    "lycoris": ("lycoris_", "lora_down.weight", "lora_up.weight", True),
}


def random_tensor(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 8


def lora_pairs(naming, *, shared: bool = False):
    """(down, up) for every weight with columns, by module name; parts share `down` only if `shared`."""
    pairs = {}
    for seed, (name, tensor) in enumerate(WEIGHTS.items()):
        if tensor.ndim > 1 and name.endswith(".weight"):
            down = random_tensor(RANK, *tensor.shape[1:], seed=seed)
            up = random_tensor(len(tensor), RANK, *[1] * (tensor.ndim - 2), seed=1000 + seed)
            for number, (spelled, part) in enumerate(naming({name: up}).items()):
                pairs[spelled.removesuffix(".weight")] = (down if shared else (number + 1) * down, part)
    return pairs


def lora_differences(naming):
    """Differences of tables, norms and biases, by the name of the parameter in this naming."""
    rest = {
        name: random_tensor(*t.shape, seed=9) for name, t in WEIGHTS.items() if t.ndim == 1 or "table" in name
    }
    return naming(rest)


def lora_file(naming, style: str, *, shared: bool = False, alpha: bool = True):
    prefix, down_name, up_name, flat = STYLES[style]
    file = {}
    for module, (down, up) in lora_pairs(naming, shared=shared).items():
        stem = prefix + (module.replace(".", "_") if flat else module)
        file |= {f"{stem}.{down_name}": down, f"{stem}.{up_name}": up}
        file |= {f"{stem}.alpha": torch.tensor(SCALE * RANK)} if alpha else {}
    for parameter, difference in lora_differences(naming).items():
        module, _, leaf = parameter.rpartition(".")
        stem, suffix = {"weight": (module, "diff"), "bias": (module, "diff_b")}.get(leaf, (parameter, "diff"))
        file[f"{prefix}{stem.replace('.', '_') if flat else stem}.{suffix}"] = difference
    return file


def expected_weights(naming, *, shared: bool = False):
    """The weights, changed under the file's naming, then renamed to the original's."""
    weights = naming(WEIGHTS)
    for module, (down, up) in lora_pairs(naming, shared=shared).items():
        weight = weights[f"{module}.weight"]
        weights[f"{module}.weight"] = weight + SCALE * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    for parameter, difference in lora_differences(naming).items():
        weights[parameter] = weights[parameter] + difference
    return canonical_transformer(weights)


def low_rank(part, first: str, second: str, core: str = ""):
    if core in part:  # [r, r, h, w] between [r, rows] and [r, columns]
        return torch.einsum("ijkl,ip,jr->prkl", part[core], part[first], part[second])
    return part[first].flatten(1) @ part[second].flatten(1)


def dense_change(part):
    """The dense change of one module, as ComfyUI's adapters compute it."""
    if "lora_mid.weight" in part:
        up, down = (part[f"lora_{end}.weight"].flatten(1) for end in ("up", "down"))
        return torch.einsum("pi,ijkl,jr->prkl", up, part["lora_mid.weight"], down)
    if "lora_up.weight" in part:
        return low_rank(part, "lora_up.weight", "lora_down.weight")
    if "hada_w1_a" in part:
        factors = (low_rank(part, f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in (1, 2))
        return prod(factors)
    if "diff" in part:
        return part["diff"]
    w1, w2 = (
        part[f"lokr_w{n}"] if f"lokr_w{n}" in part else low_rank(part, f"lokr_w{n}_a", f"lokr_w{n}_b")
        for n in (1, 2)
    )
    return torch.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2)


def parts_of(lora):
    """Suffix -> tensor of each module; fails when a module has no target, or a target no tensor."""
    parts = {}
    for name, tensor in lora.tensors.items():
        module = max((m for m in lora.targets if name.startswith(f"{m}.")), key=len)
        parts.setdefault(module, {})[name.removeprefix(f"{module}.")] = tensor
    assert parts.keys() == lora.targets.keys()
    return parts


def applied(lora, weights=WEIGHTS):
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    for module, part in parts_of(lora).items():
        parameter, rows = lora.targets[module]
        weight = changed[parameter].narrow(0, *rows) if rows else changed[parameter]
        if "set_weight" in part or "diff" in part:
            difference = part.get("set_weight", part.get("diff"))
            assert difference.shape == weight.shape  # ComfyUI skips a difference of another shape
            weight.add_(difference) if "diff" in part else weight.copy_(difference)
            continue
        rank = next((len(part[name]) for name in ("lora_down.weight", "hada_w1_b") if name in part), None)
        scale = part["alpha"].item() / rank if "alpha" in part else 1.0
        weight += scale * dense_change(part).reshape(weight.shape)
    return changed


def assert_nothing_lost(lora, file, *, added: int = 0):
    """Every tensor of the file is in the result once, or its name is listed; `added` tensors are new."""
    kept = {tensor.data_ptr() for tensor in lora.tensors.values()}
    assert {name for name, tensor in file.items() if tensor.data_ptr() not in kept} == set(lora.unused)
    assert len(lora.tensors) + len(lora.unused) == len(file) + added
    assert len(set(lora.targets.values())) == len(lora.targets)  # the host keeps one change per target


def same_tensors(actual, expected):
    return actual.keys() == expected.keys() and all(torch.equal(actual[n], expected[n]) for n in expected)


Q, FF = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.conv_point"


def _hada(rows, columns, rank=3):
    return {
        f"hada_w{n}_{end}": random_tensor(*shape, seed=n)
        for n in (1, 2)
        for end, shape in (("a", (rows, rank)), ("b", (rank, columns)))
    }


def _tucker(rows, columns, kernel, rank=3):
    """LoHa with Tucker cores."""
    flat = {f"hada_w{n}_a": random_tensor(rank, rows, seed=n) for n in (1, 2)}
    flat |= {f"hada_w{n}_b": random_tensor(rank, columns, seed=9 + n) for n in (1, 2)}
    return flat | {f"hada_t{n}": random_tensor(rank, rank, *kernel, seed=3 * n) for n in (1, 2)}


OTHERS = {
    "hada_part": ("transformer_blocks.0.attn1.to_v", _hada(60, 60)),
    "hada_fused": ("blocks.0.attn.qkv", _hada(180, 60) | {"alpha": torch.tensor(1.5)}),
    "hada_tucker": ("transformer_blocks.1.ff.conv_temp", _tucker(60, 60, (3, 1))),
    "lora_tucker": (
        "blocks.1.mlp.t_conv",
        {
            "lora_up.weight": random_tensor(60, 4, 1, 1),
            "lora_down.weight": random_tensor(4, 60, 1, 1),
            "lora_mid.weight": random_tensor(4, 4, 3, 1),
        },
    ),
    "lokr_whole": (
        "transformer_blocks.0.attn2.to_v",
        {"lokr_w1": random_tensor(6, 4), "lokr_w2": random_tensor(10, 15)},
    ),
    "lokr_pairs": (
        "blocks.0.cross_attn.kv_linear",
        {
            "lokr_w1_a": random_tensor(6, 2),
            "lokr_w1_b": random_tensor(2, 4),
            "lokr_w2_a": random_tensor(20, 3),
            "lokr_w2_b": random_tensor(3, 15),
        },
    ),
    "lokr_convolution": (
        "blocks.0.mlp.t_conv",
        {"lokr_w1": random_tensor(6, 4), "lokr_w2": random_tensor(10, 15, 3, 1)},
    ),
    "difference_of_a_convolution": ("blocks.0.mlp.inverted_conv.conv", {"diff": random_tensor(360, 60)}),
}
