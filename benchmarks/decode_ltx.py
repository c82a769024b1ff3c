"""LTX-2's video VAE at full size: correctness, then the speed of ours and diffusers', and their memory.

    python -m comfyui_sana_video.benchmarks.decode_ltx [81] [193] [encode] [--version 2.3] [--profile]

Decodes clips of 81 and 193 frames of 704x1280, and encodes 81. Random weights, bfloat16; diffusers' network
shares ours. Times are medians of passes that alternate between the versions. Peaks are those above what was
allocated before; a whole clip's has its pixels, a stream's has not.

`--stacked 0 256` also times ours with other limits of width up to which three frames' channels lie side by
side (WIDEST_STACKED), `--paired 0 128 512` up to which pairs are made (WIDEST_PAIRED), `--at-once 2 8` with
other numbers of frames (AT_ONCE). `--tiny` runs a small network on any device: the script, not the speed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..sana_video_core.checkpoints.ltx_names import canonical_ltx
from ..sana_video_core.vae import ltx_fused, ltx_fused_layers
from ..sana_video_core.vae.ltx_config import BOTH, LTX_2_3_SIZES, SPACE, TIME, LtxConfig
from ..sana_video_core.vae.ltx_vae import LtxVAE
from . import report
from .timing import GIB, in_turns
from .transformer import profile, relative

RATE = 773e12  # FLOP/s of an H100 in bfloat16, measured: docs/log.md
FLOP = {("2", "81"): 92.9e12, ("2", "193"): 219.2e12, ("2.3", "81"): 180.9e12, ("2.3", "193"): 428.6e12}
CONFIGS = {"2": LtxConfig(), "2.3": LTX_2_3_SIZES}
STEPS = {SPACE: "spatial", TIME: "temporal", BOTH: "spatiotemporal"}
OURS = {"ours": "auto", "ours, plain": "reference"}  # values of `kernels`


class Size(NamedTuple):
    """What is measured: a share of the network's width, and the clip's latents."""

    narrower: int = 1
    rows: int = 22
    columns: int = 40


FULL = Size()
TINY = Size(narrower=16, rows=2, columns=3)
LENGTHS = {"81": 11, "193": 25, "encode": 11}  # latent frames
FEW = 3  # of the check, which also runs in float32, at 8 x 8 latents


class Versions(NamedTuple):
    """One set of weights in our network and in diffusers'."""

    ours: LtxVAE
    theirs: Any


def config_of(version: str, size: Size) -> LtxConfig:
    config, few = CONFIGS[version], size.narrower
    return replace(
        config,
        latent_channels=config.latent_channels // few,
        encoder_widths=tuple(width // few for width in config.encoder_widths),
        decoder_widths=tuple(width // few for width in config.decoder_widths),
    )


def their_network(config: LtxConfig) -> Any:
    """diffusers' class in the sizes of `config`."""
    from diffusers import AutoencoderKLLTX2Video

    ups, widths = len(config.ups), config.decoder_widths
    factors = tuple(wide // narrow for wide, narrow in itertools.pairwise(widths))
    return AutoencoderKLLTX2Video(
        latent_channels=config.latent_channels,
        block_out_channels=config.encoder_widths[1:],
        down_block_types=("LTX2VideoDownBlock3D",) * 4,
        decoder_block_out_channels=widths[-2::-1],
        layers_per_block=config.encoder_blocks,
        decoder_layers_per_block=config.decoder_blocks[::-1],
        decoder_spatio_temporal_scaling=(True,) * ups,
        decoder_inject_noise=(False,) * (ups + 1),
        downsample_type=tuple(STEPS[step] for step in config.downs),
        upsample_type=tuple(STEPS[step] for step in config.ups),
        upsample_residual=(config.shortcut,) * ups,
        upsample_factor=factors[::-1],
        decoder_causal=False,
        decoder_spatial_padding_mode=config.padding,
    )


def build(version: str, size: Size, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Versions:
    """Both networks with the same random weights; most pixels stay within the range."""
    config = config_of(version, size)
    with torch.device("meta"):
        theirs, ours = their_network(config), LtxVAE(config)
    nn.Module.to(theirs.to_empty(device=device), dtype)  # diffusers' own warns of a list that is empty
    generator = torch.Generator(device).manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        if name.endswith("weight"):
            small = 0.3 if "decoder.conv_out" in name else 1
            tensor.normal_(std=small / math.sqrt(tensor[0].numel()), generator=generator)
        else:
            tensor.fill_(1.0) if name == "latents_std" else tensor.zero_()
        if name.endswith("bias"):
            tensor.normal_(std=0.1, generator=generator)
    ours.load_state_dict(canonical_ltx(theirs.state_dict()), assign=True)
    return Versions(ours.eval().requires_grad_(False), theirs.eval().requires_grad_(False))


def calls_of(
    name: str, networks: Versions, size: Size, length: int, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Callable[[], Any]]:
    """Functions that decode a clip, or encode it to its mean latents; a stream's drops its pixels."""
    vae, theirs = networks
    device, generator = vae.decoder.conv_in.conv.weight.device, torch.Generator().manual_seed(1)
    if name == "encode":
        shape = (1, 3, 8 * length - 7, size.rows, size.columns)
        coarse = torch.rand(shape, generator=generator).to(device) * 2 - 1
        pixels = nn.functional.interpolate(coarse, scale_factor=(1, 32, 32), mode="trilinear").to(dtype)
        calls = {
            version: _ours(vae, kernels, lambda: vae.encode(pixels)) for version, kernels in OURS.items()
        }
        return calls | {"diffusers": lambda: theirs.encode(pixels).latent_dist.mode()}
    shape = (1, vae.config.latent_channels, length, size.rows, size.columns)
    latents = torch.randn(shape, generator=generator).to(device, dtype)
    calls = {version: _ours(vae, kernels, lambda: vae.decode(latents)) for version, kernels in OURS.items()}
    calls["diffusers"] = lambda: theirs.decode(latents, return_dict=False)[0].clamp(-1, 1)
    return calls | {"ours, stream": _ours(vae, "auto", lambda: [None for _ in vae.decode_stream(latents)])}


def _ours(vae: LtxVAE, kernels: str, work: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        vae.kernels = kernels
        return work()

    return call


def tuned(call: Callable[[], Any], options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Ours with other constants."""
    layers, calls = ltx_fused_layers, {}
    for name, values, module, constant in (
        ("stacked", options.stacked, layers, "WIDEST_STACKED"),
        ("paired", options.paired, layers, "WIDEST_PAIRED"),
        ("at once", options.at_once, ltx_fused, "AT_ONCE"),
    ):
        for value in values:

            def other(module: Any = module, constant: str = constant, value: int = value) -> Any:
                usual = getattr(module, constant)
                setattr(module, constant, value)
                try:
                    return call()
                finally:
                    setattr(module, constant, usual)

            calls[f"ours, {name} {value}"] = other
    return calls


@torch.no_grad()
def check(name: str, version: str, size: Size, device: torch.device) -> dict[str, float]:
    """Relative errors to float32 on a small clip. Raises AssertionError where ours is worse than plain."""
    small = size._replace(rows=min(size.rows, 8), columns=min(size.columns, 8))
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    exact = build(version, small, device, torch.float32)
    truth = calls_of(name, exact, small, FEW, torch.float32)["ours, plain"]()
    torch.backends.cudnn.allow_tf32 = tf32
    del exact
    errors: dict[str, float] = {}
    for kind, call in calls_of(name, build(version, small, device), small, FEW).items():
        if kind == "ours, stream":
            continue
        out, again = call(), call()
        # diffusers has no such promise
        assert kind == "diffusers" or torch.equal(out, again), f"{kind}: two runs differ"
        errors[kind] = relative(out, truth)
    assert errors["ours"] <= 1.1 * errors["ours, plain"], errors
    return errors


@torch.no_grad()
def run_case(name: str, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    size, length = (TINY, 2) if options.tiny else (FULL, LENGTHS[name])
    results: dict[str, Any] = {"error": check(name, options.version, size, device)}
    print(name, json.dumps(results), flush=True)
    networks = build(options.version, size, device)
    calls = calls_of(name, networks, size, length)
    mine = calls["ours"]()
    results["from_ours"] = {kind: relative(calls[kind](), mine) for kind in ("ours, plain", "diffusers")}
    del mine
    times = in_turns(calls | tuned(calls["ours"], options), device, passes=options.passes)
    flop = None if options.tiny else FLOP.get((options.version, name))
    for kind, measured in times.items():
        if "ms" not in measured:
            print(f"{name} {kind}: {measured['error']}", flush=True)
            continue
        share = ""
        if flop and kind.startswith("ours"):
            measured["share"] = flop / RATE / measured["ms"] * 1e3
            share = f", {measured['share']:.0%} of the GPU's rate"
        print(
            f"{name} {kind}: {measured['ms']:.1f} ms, spread {measured['spread']:.1%}{share}, "
            f"{measured['peak_gib']:.2f} GiB beside weights and latents",
            flush=True,
        )
    if options.profile:
        print(profile(calls["ours"]), flush=True)
    weights = sum(tensor.nbytes for tensor in networks.ours.state_dict().values()) / GIB
    return results | {"times": times, "passes": options.passes, "weights_gib": weights}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["81", "193", "encode"])
    parser.add_argument("--version", choices=list(CONFIGS), default="2")
    parser.add_argument("--tiny", action="store_true", help="a small network, on the CPU if need be")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--passes", type=int, default=5)
    for name in ("stacked", "paired", "at-once"):
        parser.add_argument(f"--{name}", type=int, nargs="*", default=[], help="other values, in turn")
    parser.add_argument("--out", type=Path, help="folder of decode_ltx_GPU.json, written after each case")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in options.cases:
        case = name if options.version == "2" else f"{name}, {options.version}"
        report.write(options.out, "decode_ltx", {"cases": {case: run_case(name, device, options)}})
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
