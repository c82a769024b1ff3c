"""Chooses whether each part of the network runs fused or as layers.py writes it.

Checking every layer for changes takes milliseconds of Python, so a runner is chosen once per set of patches:
for one prepared prompt, or for one sampling under a host. Choose again after patching a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from .fused_block import fused_block, fused_final, fused_patches
from .gemm import Gemm
from .layers import Block, FinalLayer
from .memory import Contribution

BlockCall: TypeAlias = Callable[..., tuple[Tensor, Contribution]]


class Runner(NamedTuple):
    patchify: Callable[[Tensor], Tensor]  # as PatchEmbedder.forward
    blocks: tuple[BlockCall, ...]  # as Block.forward
    final: Callable[[Tensor, Tensor, int], Tensor]  # as FinalLayer.forward
    settings: tuple[str, str] = ("", "")  # the model's kernels and precision that it was chosen for


def choose_runner(
    embedder: nn.Module, blocks: Iterable[Block], final: FinalLayer, gemm: Gemm | None
) -> Runner:
    """Fused if there is a `gemm`, except for parts with a changed layer."""
    if gemm is None:
        return Runner(embedder, tuple(blocks), final)
    return Runner(
        partial(fused_patches, embedder, gemm=gemm) if gemm.fits(embedder) else embedder,
        tuple(partial(fused_block, block, gemm=gemm) if gemm.fits(block) else block for block in blocks),
        partial(fused_final, final) if gemm.fits(final, ("linear",)) else final,
    )
