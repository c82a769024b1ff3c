"""The Wan VAE at full size: correctness, then the speed of ours and diffusers', also compiled.

    python -m comfyui_sana_video.benchmarks.decode [decode] [encode] [--no-compile] [--profile] [--out FOLDER]

Decodes 10 latent frames behind a first one, with the decoder's memory, to 40 frames of 480x832; encodes 41
frames. Random weights, bfloat16; diffusers' network shares ours. Times are medians of passes that alternate
between the versions. `--tiny` runs a small network on any device: the script, not the speed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..demo.model_set import seeded
from ..sana_video_core.checkpoints.keys import canonical_vae
from ..sana_video_core.vae.wan_vae import VAEConfig, WanVAE
from . import report
from .timing import GIB, in_turns
from .transformer import profile, relative

RATE = 773e12  # FLOP/s of an H100 in bfloat16, measured: docs/log.md
OURS = {"ours": "auto", "ours, plain": "reference"}  # values of `kernels`


class Size(NamedTuple):
    """What is measured: the network's width, and the clip."""

    base_width: int = 96
    rows: int = 60  # of latents
    columns: int = 104
    length: int = 10  # latent frames behind the first one
    flop: float | None = 137e12  # of decoding them, counted; None if nobody did


FULL = Size()
TINY = Size(base_width=8, rows=4, columns=6, length=2, flop=None)
CROP = Size(rows=16, columns=16, length=3)  # of the check, which also runs in float32


class Versions(NamedTuple):
    """One set of weights in our network and in diffusers'."""

    ours: Any  # a WanVAE
    theirs: Any


def build(size: Size, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Versions:
    """Both networks with the same random weights; pictures stay within the range, mostly."""
    from diffusers import AutoencoderKLWan

    with torch.random.fork_rng(devices=[]):
        theirs: Any = seeded(AutoencoderKLWan(base_dim=size.base_width), 0)
    theirs.decoder.conv_out.weight.mul_(0.5)
    nn.Module.to(theirs, device, dtype)  # diffusers' own warns of a list that is empty
    with torch.device("meta"):
        ours = WanVAE(VAEConfig(base_width=size.base_width))
    ours.load_state_dict(canonical_vae(theirs.state_dict()), assign=True)
    return Versions(ours.eval().requires_grad_(False), theirs)


def latents_of(size: Size, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[1, 16, 1 + length, rows, columns]"""
    shape = (1, 16, 1 + size.length, size.rows, size.columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def pixels_of(size: Size, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[1, 3, 1 + 4 length, 8 rows, 8 columns] in [-1, 1]; smooth, as pictures are."""
    shape = (1, 3, 1 + 4 * size.length, size.rows, size.columns)
    coarse = torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1
    scale = (1, 8, 8)
    return nn.functional.interpolate(coarse, scale_factor=scale, mode="trilinear").to(device, dtype)


def _ours(vae: Any, kernels: str, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        vae.kernels = kernels
        return work()

    return call


def _their_decoder(theirs: Any, latents: Tensor) -> Callable[[], Tensor]:
    """As AutoencoderKLWan.decode does it, from the second latent frame on; its memory is a list."""
    x = theirs.post_quant_conv(latents)
    theirs.clear_cache()
    theirs.decoder(x[:, :, :1], feat_cache=theirs._feat_map, feat_idx=[0], first_chunk=True)
    memory = list(theirs._feat_map)
    theirs.clear_cache()

    def call() -> Tensor:
        kept = list(memory)
        frames = [
            theirs.decoder(x[:, :, i : i + 1], feat_cache=kept, feat_idx=[0]).clamp(-1, 1)
            for i in range(1, x.shape[2])
        ]
        return torch.cat(frames, dim=2)

    return call


@torch.no_grad()
def decoders(networks: Versions, latents: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Functions that decode all latent frames but the first, which each has decoded before."""
    vae, calls = networks.ours, {}
    for name, kernels in OURS.items():
        vae.kernels = kernels
        memory = _memory_after(vae, latents[:, :, :1])

        def work(memory: Any = memory) -> Tensor:
            return torch.cat(list(vae.decode_stream(latents[:, :, 1:], cache=memory)), dim=2)

        calls[name] = _ours(vae, kernels, work)
    return calls | {"diffusers": _their_decoder(networks.theirs, latents)}


def _memory_after(vae: Any, latents: Tensor) -> Any:
    stream = vae.decode_stream(latents)
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def encoders(networks: Versions, pixels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Functions that encode a clip to its mean latents."""
    vae, theirs = networks
    calls = {name: _ours(vae, kernels, lambda: vae.encode(pixels)) for name, kernels in OURS.items()}
    return calls | {"diffusers": lambda: theirs.encode(pixels).latent_dist.mode()}


def calls_of(
    name: str, size: Size, networks: Versions, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Callable[[], Tensor]]:
    if name == "decode":
        return decoders(networks, latents_of(size, device, dtype))
    return encoders(networks, pixels_of(size, device, dtype))


@torch.no_grad()
def check(name: str, size: Size, device: torch.device) -> dict[str, float]:
    """Relative errors to float32 on a small picture. Raises AssertionError where ours is worse than plain."""
    exact = build(size, device, torch.float32)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    truth = calls_of(name, size, exact, device, torch.float32)["ours, plain"]()
    torch.backends.cudnn.allow_tf32 = tf32
    errors: dict[str, float] = {}
    for version, call in calls_of(name, size, build(size, device), device).items():
        out, again = call(), call()
        # diffusers has no such promise
        assert version == "diffusers" or torch.equal(out, again), f"{version}: two runs differ"
        errors[version] = relative(out, truth)
    assert errors["ours"] <= 1.1 * errors["ours, plain"], errors
    return errors


def compiled(name: str, size: Size, networks: Versions, device: torch.device) -> Callable[[], Tensor]:
    """diffusers' version with its network compiled. The first call compiles, and raises what that raises."""
    torch._dynamo.reset()
    part = networks.theirs.decoder if name == "decode" else networks.theirs.encoder
    plain, fast = part.forward, torch.compile(part.forward)
    call = calls_of(name, size, networks, device)["diffusers"]

    def with_it() -> Tensor:
        part.forward = fast
        try:
            return call()
        finally:
            part.forward = plain

    return with_it


@torch.no_grad()
def run_case(name: str, size: Size, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    crop = CROP._replace(base_width=size.base_width) if size.base_width > TINY.base_width else TINY
    results: dict[str, Any] = {"error": check(name, crop, device)}
    print(name, json.dumps(results), flush=True)
    networks = build(size, device)
    calls = calls_of(name, size, networks, device)
    mine, results["from_ours"] = calls["ours"](), {}
    if not options.no_compile:
        calls["diffusers compiled"] = compiled(name, size, networks, device)
    results["times"] = in_turns(calls, device, passes=options.passes)
    calls = {version: call for version, call in calls.items() if "ms" in results["times"][version]}
    for version, call in calls.items():
        results["from_ours"][version] = relative(call(), mine)
    results |= {"passes": options.passes, "weights_gib": _bytes(networks.ours) / GIB, "size": size._asdict()}
    for version in calls:
        measured = results["times"][version]
        if name == "decode" and size.flop:
            measured["share"] = size.flop / RATE / measured["ms"] * 1e3
        print(
            f"{name} {version}: {measured['ms']:.1f} ms, spread {measured['spread']:.1%}, "
            f"{measured['peak_gib']:.2f} GiB beside weights and memory",
            flush=True,
        )
    if options.profile:
        print(profile(calls["ours"]), flush=True)
    return results


def _bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["decode", "encode"])
    parser.add_argument("--tiny", action="store_true", help="a small network, on the CPU if need be")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder of decode_GPU.json, written after each case")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = TINY if options.tiny else FULL
    for name in options.cases:
        report.write(options.out, "decode", {"cases": {name: run_case(name, size, device, options)}})
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
