"""Chooses whether each part of the network runs fused or as layers.py writes it.

Checking every layer for changes takes milliseconds of Python, so a runner is chosen once per set of patches:
for one prepared prompt, or for one sampling under a host. Choose again after patching a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from .fused_block import fused_block, fused_final, fused_patches
from .fused_block2 import fused_block2, fused_final2, plain_block2, plain_final2
from .gemm import Gemm
from .layers import Block, FinalLayer
from .layers2 import Block2

BlockCall: TypeAlias = Callable[..., Any]


class Runner(NamedTuple):
    patchify: Callable[[Tensor], Tensor]  # as PatchEmbedder.forward
    blocks: tuple[BlockCall, ...]  # as forward of Block or Block2
    # as FinalLayer.forward; that of SANA-Video 2.0 takes sources, and mixes them first
    final: Callable[[Any, Tensor, int], Tensor]
    # what it was chosen for: the model's kernels and precision, and its parts
    settings: tuple[str, str]
    parts: tuple[nn.Module, ...]


def choose_runner(
    settings: tuple[str, str],
    embedder: nn.Module,
    blocks: tuple[Block, ...],
    final: FinalLayer,
    gemm: Gemm | None,
) -> Runner:
    """Fused if there is a `gemm`, except for parts with a changed layer."""
    parts = embedder, *blocks, final
    if gemm is None:
        return Runner(embedder, blocks, final, settings, parts)
    return Runner(
        partial(fused_patches, embedder, gemm=gemm) if gemm.fits(embedder) else embedder,
        tuple(partial(fused_block, block, gemm=gemm) if gemm.fits(block) else block for block in blocks),
        partial(fused_final, final) if gemm.fits(final, ("linear",)) else final,
        settings,
        parts,
    )


def choose_runner2(
    settings: tuple[str, str],
    embedder: nn.Module,
    blocks: tuple[Block2, ...],
    final: FinalLayer,
    gemm: Gemm | None,
) -> Runner:
    """The same for SANA-Video 2.0."""
    parts = embedder, *blocks, final
    if gemm is None:
        return Runner(embedder, blocks, partial(plain_final2, final), settings, parts)
    return Runner(
        partial(fused_patches, embedder, gemm=gemm) if gemm.fits(embedder) else embedder,
        tuple(
            partial(fused_block2, block, gemm=gemm) if gemm.fits(block) else partial(plain_block2, block)
            for block in blocks
        ),
        partial(fused_final2 if gemm.fits(final, ("linear",)) else plain_final2, final),
        settings,
        parts,
    )
