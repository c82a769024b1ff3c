"""Quantised files of every maker are recognised by what they are."""

from __future__ import annotations

import json

import pytest
import torch
from comfyui_sana_video.sana_video_core.errors import FileError
from comfyui_sana_video.sana_video_core.files.quantised import refuse_quantised
from support.checkpoint_files import WEIGHTS, diffusers_named, refusal

LAYER = "blocks.0.attn.qkv"


def _bytes(**entries):
    return torch.tensor(list(json.dumps(entries).encode()), dtype=torch.uint8)


def _int8(*shape):
    return torch.zeros(shape, dtype=torch.int8)


def _fp8(*shape):
    return torch.zeros(shape).to(torch.float8_e4m3fn)


MAKERS = {
    "ComfyUI (fp8_scaled)": [{"weight": _fp8(4, 4), "scale_weight": torch.ones(())}, {"scaled_fp8": _fp8(2)}],
    "ComfyUI (float8_e4m3fn)": [{"weight": _fp8(4, 4), "comfy_quant": _bytes(format="float8_e4m3fn")}],
    "ComfyUI (nvfp4)": [{"weight_scale_2": torch.ones(()), "comfy_quant": _bytes(format="nvfp4")}],
    "ComfyUI (int8_tensorwise, convrot)": [{"comfy_quant": _bytes(format="int8_tensorwise", convrot=True)}],
    "ComfyUI (an unknown format)": [{"comfy_quant": torch.zeros(3, dtype=torch.uint8)}],
    "bitsandbytes (NF4)": [
        {
            "weight": torch.zeros(8, 1, dtype=torch.uint8),
            "weight.absmax": torch.ones(2),
            "weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8),
        }
    ],
    "bitsandbytes (FP4)": [{"weight.quant_state.bitsandbytes__fp4": torch.zeros(9, dtype=torch.uint8)}],
    "bitsandbytes (4 bit)": [{"weight.absmax": torch.ones(2), "weight.quant_map": torch.ones(16)}],
    "bitsandbytes (int8)": [{"weight": _int8(4, 4), "SCB": torch.ones(4)}],
    "GPTQ": [{"qweight": _int8(4, 4), "qzeros": _int8(4), "scales": torch.ones(4), "g_idx": _int8(4)}],
    "AWQ or GPTQ": [{"qweight": _int8(4, 4), "qzeros": _int8(4), "scales": torch.ones(4)}],
    "SVDQuant (Nunchaku)": [
        {
            "qweight": _int8(4, 4),
            "wscales": torch.ones(4),
            "smooth": torch.ones(4),
            "lora_down": torch.ones(4, 2),
        }
    ],
    "optimum-quanto": [{"weight._data": _int8(4, 4), "weight._scale": torch.ones(4, 1)}],
    "torchao": [{"weight:qdata": _int8(4, 4), "weight:scale": torch.ones(4)}, {"_weight_qdata": _int8(4)}],
    "HQQ": [{"W_q": _int8(4)}],
    "compressed-tensors": [{"weight_packed": _int8(4), "weight_scale": torch.ones(4)}],
    "NVFP4": [{"weight": _int8(4), "weight_scale": _fp8(4), "weight_scale_2": torch.ones(())}],
    "MXFP8": [{"weight": _fp8(4, 4), "weight_scale": torch.zeros(4, dtype=torch.uint8)}],
    "float8_e4m3fn and scaled values": [{"weight": _fp8(4, 4), "weight_scale": torch.ones(())}],
    "int8 and scaled values": [{"weight": _int8(4, 4), "weight_scale": torch.ones(4, 1)}],
    "float8 in blocks": [{"weight": _fp8(4, 4), "weight_scale_inv": torch.ones(1, 1)}],
}


@pytest.mark.parametrize("maker", MAKERS)
def test_every_maker_is_named(maker):
    for parts in MAKERS[maker]:
        tensors = WEIGHTS | {f"{LAYER}.{part}": tensor for part, tensor in parts.items()}
        message = refusal(lambda t=tensors: refuse_quantised("x.safetensors", t), FileError)
        assert f"quantised with {maker}" in message
        assert "this pack can't read it yet" in message
        assert "“x.safetensors”" in message


@pytest.mark.parametrize(
    ("metadata", "config", "maker"),
    [
        ({"_quantization_metadata": "{}"}, {}, "ComfyUI"),
        ({}, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        ({}, {"quantization_config": {"bits": 4}}, "an unnamed method"),
    ],
)
def test_what_is_said_of_the_weights(metadata, config, maker):
    message = refusal(lambda: refuse_quantised("x", WEIGHTS, metadata, config), FileError)
    assert f"quantised with {maker}" in message


@pytest.mark.parametrize("spelled", [dict, diffusers_named])
def test_plain_weights_are_not_quantised(spelled):
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        refuse_quantised("x", {name: tensor.to(dtype) for name, tensor in spelled(WEIGHTS).items()})
    refuse_quantised("x", WEIGHTS, {"format": "pt"}, {"quantization_config": None})
