"""One call of SANA-Video 2.0 at full size: correctness, then the speed of ours fused, in fp8 and plain.

    python -m comfyui_sana_video.benchmarks.transformer2 [81] [193] [--rows N …] [--profile] [--out FOLDER]

Cases are frames of 736x1280, one sample. Random weights (4.5 billion), bfloat16, 300 text tokens, no padding.
Times are medians of passes that alternate between the versions; PyTorch's softmax attention is also timed
alone, for each of its backends. `--tiny` runs a small network on any device: the script, not the speed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..sana_video_core.config import FAMILIES, Sana2Config
from ..sana_video_core.transformer import fused_block2
from ..sana_video_core.transformer.model2 import SanaVideo2
from . import report
from .timing import GIB, in_turns
from .transformer import profile, relative

RATE = 773e12  # FLOP/s of an H100 in bfloat16, measured: docs/log.md
VERSIONS = {"ours": ("triton", "full"), "ours, fp8": ("triton", "fp8"), "ours, plain": ("reference", "full")}
BACKENDS = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
TOKENS = 300  # of text
Given = tuple[Tensor, Tensor, Tensor]  # latents, timesteps, text


class Case(NamedTuple):
    shape: tuple[int, ...]  # latents [B, C, F, H, W]
    flop: float | None = None


CASES = {"81": Case((1, 128, 11, 23, 40), 91e12), "193": Case((1, 128, 25, 23, 40), 230e12)}
TINY = {"width": 96, "depth": 8, "head_dim": 16, "softmax_head_dim": 32, "cross_head_dim": 16,
        "ffn_hidden": 160, "channels": 8, "caption_channels": 24}  # fmt: skip


def build(device: torch.device, sizes: Mapping[str, int]) -> SanaVideo2:
    """The 5B network with random weights, but for given sizes."""
    family = FAMILIES["sana_video2_720p"]
    # None: softmax layers by the published rule, for this depth
    config = replace(cast(Sana2Config, family.config), **sizes, softmax_layers=None)
    network = SanaVideo2(config, family, device=device, dtype=torch.bfloat16)
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        single = parameter.ndim == 1 or name.endswith("table")
        scale = 0.02 if single else parameter[0].numel() ** -0.5
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=scale)
    return network.eval().requires_grad_(False)


def inputs(
    network: SanaVideo2, shape: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The same on every device."""
    draw = torch.Generator().manual_seed(1)
    text = torch.randn(shape[0], TOKENS, network.config.caption_channels, generator=draw)
    latents = torch.randn(shape, generator=draw)
    dtype = network.dtype
    return latents.to(device, dtype), torch.full((shape[0],), 856, device=device), text.to(device, dtype)


@torch.no_grad()
def calls_of(
    network: SanaVideo2, given: Given, names: Sequence[str], rows: Sequence[int] = ()
) -> dict[str, Callable[[], Tensor]]:
    """Functions without arguments, each one call of the network."""
    latents, timesteps, text = given
    usual = fused_block2.ROWS_AT_ONCE
    ready: dict[str, tuple[Any, Any]] = {}
    for name in names:
        network.kernels, network.precision = VERSIONS[name]
        if not latents.is_cuda:
            network.kernels = "auto"
        ready[name] = network.prepare_text(text), network._prepared_runner

    def call(name: str, rows: int) -> Tensor:
        prepared, runner = ready[name]
        # choosing takes two milliseconds, once a prompt
        network._prepared_runner, (network.kernels, network.precision) = runner, runner.settings
        fused_block2.ROWS_AT_ONCE = rows
        try:
            return network(latents, timesteps, prepared)
        finally:
            fused_block2.ROWS_AT_ONCE = usual

    calls = {name: partial(call, name, usual) for name in names}
    return calls | {f"ours, {count} rows": partial(call, "ours", count) for count in rows}


@torch.no_grad()
def check(names: Sequence[str], device: torch.device, sizes: Mapping[str, int]) -> dict[str, float]:
    """Relative errors to float64 of nine layers, which are a group and one more, on a small clip.

    Infinite where two runs differ.
    """
    network = build(device, {**sizes, "depth": 9})
    channels = network.config.channels
    given = inputs(network, (1, channels, 2, 5, 7), device)
    network.double()
    network.kernels, network.precision = "reference", "full"
    truth = network(*(x.double() if x.is_floating_point() else x for x in given))
    network.bfloat16()
    errors: dict[str, float] = {}
    for name, call in calls_of(network, given, names).items():
        out, again = call(), call()
        errors[name] = relative(out, truth) if torch.equal(out, again) else math.inf
    return errors


@torch.no_grad()
def softmax(network: SanaVideo2, tokens: int, device: torch.device, passes: int) -> dict[str, Any]:
    """Times of PyTorch's attention in one softmax layer, for each backend."""
    config = network.config
    shape = (1, tokens, config.width // config.softmax_head_dim, config.softmax_head_dim)
    q, k, v = (torch.randn(shape, device=device, dtype=network.dtype).transpose(1, 2) for _ in range(3))

    def call(backends: list[SDPBackend]) -> Tensor:
        with sdpa_kernel(backends):
            return F.scaled_dot_product_attention(q, k, v)

    calls = {backend.name.lower(): partial(call, [backend]) for backend in BACKENDS}
    whole = partial(call, [*BACKENDS, SDPBackend.MATH])
    return in_turns({"as it chooses": whole, **calls}, device, passes=passes)


@torch.no_grad()
def run_case(
    name: str, case: Case, network: SanaVideo2, names: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    device = network.device
    calls = calls_of(network, inputs(network, case.shape, device), names, options.rows)
    weights = sum(tensor.nbytes for tensor in network.state_dict().values()) / GIB
    tokens = case.shape[0] * case.shape[2] * case.shape[3] * case.shape[4]
    results: dict[str, Any] = {"passes": options.passes, "weights_gib": weights, "tokens": tokens}
    mine = calls["ours"]()
    results["from_ours"] = {version: relative(call(), mine) for version, call in calls.items()}
    results["times"] = in_turns(calls, device, passes=options.passes)
    for version, measured in results["times"].items():
        if case.flop and "ms" in measured:
            measured["share"] = case.flop / RATE / measured["ms"] * 1e3
        print(f"{name} {version}: {json.dumps(measured)}, weights {weights:.2f} GiB", flush=True)
    results["softmax"] = softmax(network, tokens, device, options.passes)
    print(f"{name} softmax of one layer: {json.dumps(results['softmax'])}", flush=True)
    if options.profile:
        print(profile(calls["ours"], 40), flush=True)
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--tiny", action="store_true", help="a small network, on the CPU if need be")
    parser.add_argument("--rows", nargs="*", type=int, default=[], help="other pieces of the feed-forward")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder of transformer2_GPU.json, written after each case")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = list(VERSIONS) if device.type == "cuda" else ["ours", "ours, plain"]  # fp8 is refused there
    sizes = TINY if options.tiny else {}
    errors = check(names, device, sizes)
    print("error", json.dumps(errors), flush=True)
    network = build(device, sizes)
    for name in options.cases:
        case = CASES[name]
        if options.tiny:
            case = Case((1, TINY["channels"], case.shape[2], 2, 3))
        results = run_case(name, case, network, names, options)
        print(f"{name} from ours: {json.dumps(results['from_ours'])}", flush=True)
        report.write(options.out, "transformer2", {"error": errors, "cases": {name: results}})
    # last, so that a time on a card isn't lost
    if not errors["ours"] <= 1.1 * errors["ours, plain"] < 0.1:
        raise SystemExit(f"Fused is further from float64 than plain, or two runs differ: {errors}")


if __name__ == "__main__":
    main()
