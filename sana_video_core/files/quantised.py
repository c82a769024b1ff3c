"""Recognises quantised weights by what their makers leave in a file, and refuses them by the maker's name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import FileError

GGUF = b"GGUF"  # how its files begin
# in names of tensors -> who writes it; the first entry of which any name has something counts
MAKERS = tuple(
    (re.compile(pattern), maker)
    for pattern, maker in (
        (
            r"\.(?:wscales|wzeros|wcscales|wtscale|smooth|smooth_factor|smooth_factor_orig)$",
            "SVDQuant (Nunchaku)",
        ),
        (r"\.quant_state\.bitsandbytes__nf4$", "bitsandbytes (NF4)"),
        (r"\.quant_state\.bitsandbytes__fp4$", "bitsandbytes (FP4)"),
        (r"\.(?:nested_)?(?:absmax|quant_map)$", "bitsandbytes (4 bit)"),
        (r"\.(?:SCB|weight_format)$", "bitsandbytes (int8)"),
        (r"\.g_idx$", "GPTQ"),
        (r"\.(?:qweight|qzeros)$", "AWQ or GPTQ"),
        (r"\.W_q$", "HQQ"),
        (r"(?:tensor_impl|layout_tensor|int_data|[:._]qdata|:scale|:zero_point)(?:$|\.)", "torchao"),
        (r"\.(?:weight|bias)\._(?:data|scale|zeropoint|shift)\b|\._data$", "optimum-quanto"),
        (r"(?:^|\.)comfy_quant$", "ComfyUI"),
        (r"(?:^|\.)scaled_fp8$|\.scale_(?:weight|input)$", "ComfyUI (fp8_scaled)"),
        (r"\.weight_packed$|\.(?:weight|input)_global_scale$", "compressed-tensors"),
        (r"\.weight_scale_2$", "NVFP4"),
        (r"\.weight_scale_inv$", "float8 in blocks (weight_scale_inv)"),
        (r"(?:^|[._])weight_scale$|\.input_scale$|\.weight_scales?$", "scaled values (weight_scale)"),
    )
)
SCALES = "scaled values (weight_scale)"


def refuse_quantised(
    name: str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] = {},
    config: Mapping[str, Any] = {},
    *,
    instead: str = "",
) -> None:
    """Raises FileError for a quantised file. Plain float8 isn't: its values are the weights.

    `config` is the config.json beside it; `instead` is what to do besides using an unquantised file.
    """
    maker, sign = _maker(tensors, metadata, config)
    if maker:
        raise FileError(quantised_sentence(name, maker, sign, instead))


def quantised_sentence(name: str, maker: str, sign: str, instead: str = "") -> str:
    """What to say of a quantised file; `sign` is what it was recognised by."""
    return (
        f"“{name}” is quantised with {maker} (it has {sign}); this pack can't read it yet. "
        f"Use the model in float32, float16, bfloat16 or plain float8{instead}."
    )


def _maker(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[str, str]:
    """The maker, and by what it was recognised; empty for weights that aren't quantised."""
    described = config.get("quantization_config")
    if isinstance(described, dict) and described:
        return str(described.get("quant_method", "an unnamed method"))[:40], "a quantization_config"
    if "_quantization_metadata" in metadata:
        return "ComfyUI", "_quantization_metadata"
    for pattern, maker in MAKERS:
        sign = next((name for name in tensors if pattern.search(name)), None)
        if sign is not None:
            return _exact(maker, sign, tensors), sign
    for name, tensor in tensors.items():
        if "float4" in str(tensor.dtype) or tensor.is_quantized:
            return str(tensor.dtype).removeprefix("torch."), name
    return "", ""


def _exact(maker: str, sign: str, tensors: Mapping[str, Tensor]) -> str:
    """The maker with the format, where another tensor shows it."""
    if maker == "ComfyUI":
        return f"ComfyUI ({_comfy_format(tensors[sign])})"
    if maker != SCALES:
        return maker
    weight = tensors.get(sign.replace("_scales", "").replace("_scale", "").replace("input", "weight"))
    if "e8m0" in str(tensors[sign].dtype) or "uint8" in str(tensors[sign].dtype):
        return "MXFP8"
    if weight is None or weight.element_size() > 1:
        return maker
    return f"{str(weight.dtype).removeprefix('torch.')} and {maker}"


def _comfy_format(described: Tensor) -> str:
    """What ComfyUI's JSON beside a weight says, such as float8_e4m3fn, nvfp4, int8_tensorwise."""
    try:
        entries = json.loads(bytes(described.flatten().tolist()[:1000]))
        words = [str(entries["format"]), *(key for key, value in entries.items() if value is True)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "an unknown format"
    return ", ".join(words)[:60]
