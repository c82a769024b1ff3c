"""Where ComfyUI computes, and where values between nodes are kept."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import comfy.model_management
import torch


def device_of(patcher: Any) -> AbstractContextManager[Any]:
    """Makes the patcher's GPU the current one."""
    return comfy.model_management.cuda_device_context(patcher.load_device)


def intermediate_device() -> torch.device:
    """Where values between nodes are kept."""
    return comfy.model_management.intermediate_device()
