"""Who has the device: the transformer and the VAE at once, or in turn."""

from __future__ import annotations

import torch

from ..sana_video_core.streaming.pipeline import has_room
from ..sana_video_core.streaming.state import Identity
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.transformer.pass_graphs import graphs_where_they_pay
from ..sana_video_core.vae.decoders import VideoDecoder
from .models import Models


class Turns:
    """Moves the two of a film. They stay side by side where both have room."""

    def __init__(self, models: Models, model: SanaVideo, vae: VideoDecoder, identity: Identity) -> None:
        self._device, self._vae_device = models.device, models.vae_device
        self._model, self._vae, self._identity = model, vae, identity
        model.graphs = graphs_where_they_pay(models.device)

    def overlap(self, wanted: str) -> bool:
        """Whether chunks are decoded while others are sampled; then both are in their places.

        `wanted` is one of OVERLAPS.
        """
        both = wanted == "on"
        if wanted == "auto":
            both = has_room(self._vae, self._identity, self._device, self._vae_device)
        if both:
            self._vae.to(self._vae_device)
        return both

    def to_sample(self) -> None:
        if self._model.device == self._device:
            return
        self._vae.to("cpu")
        torch.cuda.empty_cache()
        self._model.to(self._device)

    def to_decode(self) -> None:
        shared = self._device == self._vae_device and self._device.type == "cuda"
        if shared and not self._both_fit():
            self._model.graphs = None  # they hold activations, and know where the weights were
            self._model.to("cpu")
            torch.cuda.empty_cache()
        self._vae.to(self._vae_device)

    def _both_fit(self) -> bool:
        torch.cuda.empty_cache()
        needed = self._vae.memory_for(self._identity.batch, self._identity.grid, self._vae_device)
        weights = (tensor for tensor in self._vae.state_dict().values() if tensor.device != self._vae_device)
        free, _ = torch.cuda.mem_get_info(self._vae_device)
        return free > needed + sum(tensor.nbytes for tensor in weights)
