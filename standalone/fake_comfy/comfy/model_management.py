"""Devices, dtypes, and where each model is. On a CPU all is float32; the real one may choose float16."""

import sys
from contextlib import nullcontext
from functools import partial
from threading import Event

import torch

_loaded, _stop = [], Event()


class InterruptProcessingException(BaseException):
    pass


def interrupt_current_processing(value=True):
    (_stop.set if value else _stop.clear)()


def throw_exception_if_processing_interrupted():
    if _stop.is_set():
        _stop.clear()
        raise InterruptProcessingException


def get_torch_device():
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


vae_device = text_encoder_device = get_torch_device
intermediate_device = vae_offload_device = partial(torch.device, "cpu")
unet_offload_device = text_encoder_offload_device = intermediate_device


def unet_dtype(device=None, *_, **__):
    return torch.bfloat16 if (device or get_torch_device()).type == "cuda" else torch.float32


text_encoder_dtype = unet_dtype


def vae_dtype(device=None, allowed_dtypes=()):
    return unet_dtype(device) if torch.bfloat16 in allowed_dtypes else torch.float32


def unet_manual_cast(weight_dtype, inference_device, *_):
    best = unet_dtype(inference_device)
    return None if weight_dtype in (torch.float32, torch.float64, best) else best


def load_models_gpu(models, memory_required=0, **_):
    """Move `models` to their devices; the others that are loaded go back to their offload devices first."""
    for patcher in [old for old in _loaded if all(old.model is not new.model for new in models)]:
        patcher.unpatch_model(patcher.offload_device)
    for patcher in models:
        patcher.patch_model(patcher.load_device)
    _loaded[:] = models


def get_free_memory(dev=None):
    if (dev or get_torch_device()).type == "cpu":
        return sys.maxsize  # it swaps
    return torch.cuda.mem_get_info(dev)[0]


def soft_empty_cache(force=False):
    torch.cuda.empty_cache()


def cuda_device_context(device):
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
