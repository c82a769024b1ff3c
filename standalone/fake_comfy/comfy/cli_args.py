"""The options that ComfyUI was started with, as far as we ask for them."""

from enum import Enum
from types import SimpleNamespace


class LatentPreviewMethod(Enum):
    NoPreviews = "none"
    Auto = "auto"
    Latent2RGB = "latent2rgb"
    TAESD = "taesd"

    @classmethod
    def from_string(cls, value):
        return next((method for method in cls if method.value == value), None)


args = SimpleNamespace(preview_method=LatentPreviewMethod.Auto, preview_size=512, disable_metadata=False)
