"""A checkpoint holds its module's parameters in a float type; otherwise the error says what is wrong."""

from pathlib import Path

import pytest
import torch
from comfyui_sana_video.sana_video_core.checkpoints.checkpoint import check_complete
from comfyui_sana_video.sana_video_core.errors import FileError
from torch import nn

PATH = Path("folder/model.safetensors")


@pytest.fixture
def module():
    return nn.Sequential(*(nn.Linear(2, 3, device="meta") for _ in range(3)))


def tensors(**changed):
    whole = {
        f"{i}.{name}": torch.zeros(shape)
        for i in range(3)
        for name, shape in (("weight", (3, 2)), ("bias", 3))
    }
    return whole | changed


def check(module, weights):
    check_complete(module, weights, PATH, "SANA-Video transformer")


def test_a_complete_one_passes(module):
    check(module, tensors())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_every_float_type_passes(module, dtype):
    check(module, {name: tensor.to(dtype) for name, tensor in tensors().items()})


def test_missing_and_unknown_tensors_are_counted_and_named(module):
    weights = tensors(**{"extra.weight": torch.zeros(1)})
    del weights["1.bias"], weights["2.weight"]
    with pytest.raises(FileError) as error:
        check(module, weights)
    said = str(error.value)
    assert "“model.safetensors” isn't a complete SANA-Video transformer" in said
    assert all(word in said for word in ("2 missing", "1.bias", "1 unknown", "extra.weight", "LoRA"))


def test_only_what_is_wrong_is_named(module):
    weights = tensors()
    del weights["0.bias"]
    with pytest.raises(FileError, match="1 missing") as error:
        check(module, weights)
    assert "unknown" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_a_quantized_file_is_named_as_one(module, dtype):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(FileError, match=f"0.weight holds values of type {name}.*quantized"):
        check(module, tensors(**{"0.weight": torch.zeros(3, 2).to(dtype)}))


def test_another_shape_names_both(module):
    with pytest.raises(FileError, match=r"2.weight has shape \[3, 4\].*has \[3, 2\].*damaged or of another"):
        check(module, tensors(**{"2.weight": torch.zeros(3, 4)}))
