"""The pack under any name, so that a check can run on the checkout or on a mutated copy of it."""

from __future__ import annotations

import importlib
import shutil
import sys
from functools import cached_property
from pathlib import Path
from types import ModuleType

import torch
from comfyui_sana_video.demo.model_set import seeded
from conftest import PACKAGE, ROOT, load_checkout
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "golden"
SOURCES = ("sana_video_core", "kernels")


class Pack:
    """Modules of one copy of the pack: `pack.core("transformer.model").SanaVideo`."""

    def __init__(self, name: str = PACKAGE) -> None:
        self.name = name

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.name}.{name}")

    def core(self, module: str) -> ModuleType:
        return self.module(f"sana_video_core.{module}")

    @cached_property
    def golden_model(self):
        """The small model whose outputs the golden tensors are."""
        load = self.core("checkpoints.checkpoint").load_transformer
        path = GOLDEN / "weights_nvlabs.safetensors"
        return load(path, config=GOLDEN / "config_diffusers.json", family="longsana_480p")

    def tiny_model(
        self, *, seed: int = 0, head: int = 20, heads: int = 3, depth: int = 2, family="longsana_480p"
    ):
        """A model with seeded random weights, in which every parameter matters."""
        config = self.core("config")
        rules = config.FAMILIES[family]
        sizes = config.TransformerConfig(
            channels=rules.config.channels,
            patch=rules.config.patch,
            width=head * heads,
            depth=depth,
            head_dim=head,
            cross_head_dim=head,
            ffn_hidden=2 * head * heads,
            caption_channels=24,
        )
        return seeded(self.core("transformer.model").SanaVideo(sizes, rules), seed)


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def mutant(folder: Path, name: str, file: str, old: str, new: str) -> Pack:
    """A copy of the pack in `folder` with one change.

    Fails when the text to change is not there exactly once.
    """
    for source in SOURCES:
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "__init__.py").write_text("")
    path = folder / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file} has {text.count(old)} places that read: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    load_checkout(name, folder)
    return Pack(name)


def forget(pack: Pack) -> None:
    """Take a mutant's modules out of the interpreter."""
    for name in [name for name in sys.modules if name == pack.name or name.startswith(pack.name + ".")]:
        del sys.modules[name]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Largest absolute difference at most `tolerance`."""
    difference = (actual.double() - expected.double()).abs().max().item()
    assert difference <= tolerance, f"differs by {difference:.3g}, allowed are {tolerance:.3g}"


def assert_sums_close(actual: Tensor, expected: Tensor) -> None:
    """Sums agree to 1e-5 of their largest magnitude."""
    assert_close(actual, expected, 1e-5 * expected.abs().max().item())


def same(a: Tensor, b: Tensor) -> bool:
    """Bit-exact, dtype and shape included."""
    return a.dtype == b.dtype and torch.equal(a, b)
