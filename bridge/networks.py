"""Our networks as ComfyUI calls them. Parameter names are the original's, so LoRAs find them.

ComfyUI owns the weights: its layer classes cast, offload and patch them. Imported when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import comfy.ops
import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ..sana_video_core.config import Family, Sana2Config, TransformerConfig
from ..sana_video_core.transformer.layers import PreparedText
from ..sana_video_core.transformer.memory import Memory
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.transformer.model2 import SanaVideo2
from ..sana_video_core.transformer.network import VideoNetwork

Result = TypeVar("Result", covariant=True)
# what stands behind a mix-in, for type checkers
Base = VideoNetwork[Any] if TYPE_CHECKING else object


@contextmanager
def hosted_weights(layer: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Lend the weight and bias that a ComfyUI layer would compute with: on the device, cast and patched.

    What is fetched from elsewhere is copied: ComfyUI fetches into one buffer for each of its two streams, and
    the next layer but one would overwrite it.
    """
    weights: tuple[Tensor, Tensor | None, Any] = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
    weight, bias, stream = weights
    # _v_weight: with dynamic VRAM
    stays = weight is layer.weight or weight is getattr(layer, "_v_weight", None)
    try:
        yield (weight, bias) if stays else (weight.clone(), None if bias is None else bias.clone())
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


class StreamCall(Protocol[Result]):
    """A stream's call of the network. ComfyUI's wrappers run around it, as around a sampler's."""

    def __call__(self, network: Any, x: Tensor, timestep: Tensor) -> Result: ...


class Velocity(NamedTuple):
    """The velocity of x, of a stream or of a clip (without a memory, from the first frame on)."""

    text: PreparedText
    memory: Memory | None
    first_frame: int

    def __call__(self, network: HostedNetwork, x: Tensor, timestep: Tensor) -> Tensor:
        past = {} if self.memory is None and not self.first_frame else self._asdict()
        past.pop("text", None)
        return network.velocity(x, timestep, self.text, **past)


class Absorb(NamedTuple):
    """The memory after x, as SanaVideo.absorb."""

    text: PreparedText
    memory: Memory | None
    first_frame: int
    window: int | None

    def __call__(self, network: SanaVideo, x: Tensor, timestep: Tensor) -> Memory:
        memory, first_frame, window = self[1:]
        return network.absorb(x, self.text, memory=memory, first_frame=first_frame, window=window)


class HostedNetwork(Base):
    """What ComfyUI calls, in front of one of our networks."""

    def __init__(
        self,
        sizes: TransformerConfig,
        family: Family,
        fingerprint: str,
        *,
        operations: Any,
        dtype: Any,
        device: Any,
        **_: Any,
    ) -> None:
        place = {"device": device, "dtype": dtype}
        super().__init__(sizes, family, operations=operations, **place)  # pyright: ignore[reportCallIssue]
        self.fingerprint, self.weights_of = fingerprint, hosted_weights
        self._made_in = dtype
        self.computes: tuple[torch.device, torch.dtype] | None = None  # set by load_patcher

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights; with dynamic VRAM a layer has none until a file's are loaded."""
        return self._made_in if self.final_layer.linear.weight is None else super().dtype

    @property
    def compute_device(self) -> torch.device:
        return self.computes[0] if self.computes else self.device

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.computes[1] if self.computes else self.dtype

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  ComfyUI's signature
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        attention_mask: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006  ComfyUI's own signature; read only
        **extra: Any,
    ) -> Any:
        """The velocity of x [B, C, F, H, W], or what `stream` returns, with the nodes' wrappers around it."""
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, attention_mask, control, transformer_options, **extra)

    def _forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Any,
        attention_mask: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
        *,
        stream: StreamCall[Any] | None = None,
        **_: Any,
    ) -> Any:
        if stream is not None:
            return stream(self, x, timestep)
        return self.velocity(x, timestep, context, _mask_for(context, attention_mask))

    def velocity(self, *inputs: Any, **past: Any) -> Tensor:
        """As the network's own forward."""
        return super().forward(*inputs, **past)


class SanaVideoModule(HostedNetwork, SanaVideo):  # pyright: ignore[reportIncompatibleMethodOverride]
    """SANA-Video and LongSANA, 2B."""


class SanaVideo2Module(HostedNetwork, SanaVideo2):  # pyright: ignore[reportIncompatibleMethodOverride]
    """SANA-Video 2.0, 5B."""


def module_of(sizes: TransformerConfig) -> type[HostedNetwork]:
    return SanaVideo2Module if isinstance(sizes, Sana2Config) else SanaVideoModule


def _mask_for(context: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask at the text's length. What ConditioningConcat appended has no mask, and is read whole."""
    if mask is None or mask.shape[-1] >= context.shape[1]:
        return mask if mask is None else mask[:, : context.shape[1]]
    return torch.nn.functional.pad(mask, (0, context.shape[1] - mask.shape[-1]), value=1)
