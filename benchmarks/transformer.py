"""One call of the transformer at its true size: correctness first, then ours, diffusers' eager and diffusers' compiled, in turns.

Usage: python benchmarks/transformer.py [case …] [--no-compile] [--profile] [--out FOLDER]. Cases: see CASES; diffusers 0.42 and a GPU.
Random weights, bfloat16, 300 text tokens, no padding. Times are medians of passes that alternate between the versions.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import PACKAGE
from pack import Pack

PACK = Pack(PACKAGE)
RATE = 790e12  # FLOP/s of one H200 in bfloat16, measured: docs/log.md
PASSES, WARM = 7, 3


class Case(NamedTuple):
    family: str
    shape: tuple[int, ...]  # latents [B, C, F, H, W]
    flop: float
    causal: bool = False


CASES = {
    "480p": Case("sana_video_480p", (2, 16, 21, 60, 104), 242.4e12),
    "720p": Case("sana_video_720p", (2, 128, 11, 22, 40), 71.8e12),
    "chunk": Case("longsana_480p", (1, 16, 10, 60, 104), 57.8e12, causal=True),
    "480p_161": Case("sana_video_480p", (2, 16, 41, 60, 104), 473.0e12),
    "480p_321": Case("sana_video_480p", (2, 16, 81, 60, 104), 934.3e12),
    "480p_641": Case("sana_video_480p", (2, 16, 161, 60, 104), 1856.8e12),
}


def build(case: Case, depth: int = 20, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """(diffusers' model, ours) with the same random weights."""
    from diffusers import SanaVideoTransformer3DModel

    family = PACK.core("config").FAMILIES[case.family]
    sizes = family.config
    torch.manual_seed(0)
    with torch.device("cuda"):
        theirs = SanaVideoTransformer3DModel(
            in_channels=sizes.channels,
            out_channels=sizes.channels,
            num_layers=depth,
            mlp_ratio=3.0,
            patch_size=(1, sizes.patch, sizes.patch),
            sample_size=30 if sizes.patch == 2 else 22,
        ).to(dtype)
    for name, parameter in theirs.named_parameters():
        scale = 0.02 if parameter.ndim == 1 or name.endswith("table") else parameter[0].numel() ** -0.5
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=scale)
    model = PACK.core("model")
    with torch.device("meta"):
        ours = model.SanaVideo(replace(sizes, depth=depth), family, dtype=dtype)
    tensors = PACK.core("keys").canonical_transformer(theirs.state_dict())
    ours.load_state_dict(tensors, assign=True)
    return theirs.eval().requires_grad_(False), ours.eval().requires_grad_(False)


def inputs(case: Case, dtype: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, ...]:
    batch = case.shape[0]
    latents = torch.randn(case.shape, device="cuda", dtype=dtype)
    text = torch.randn(batch, 300, 2304, device="cuda", dtype=dtype)
    return latents, torch.full((batch,), 727, device="cuda"), text


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@torch.no_grad()
def check(case: Case) -> dict[str, float]:
    """Errors against float64 at two blocks: ours fused, ours plain, diffusers. Raises where ours is not the smallest."""
    theirs, ours = build(case, depth=2)
    latents, timestep, text = inputs(case)
    latents = latents[:, :, :3]
    exact = ours.double()
    exact.kernels = "reference"
    truth = exact(latents.double(), timestep, text.double())
    ours.bfloat16()
    found = {"diffusers": relative(theirs(latents, text, timestep).sample, truth)}
    for kernels in ("reference", "triton"):
        ours.kernels = kernels
        found[kernels] = relative(ours(latents, timestep, text), truth)
    again = [ours(latents, timestep, text) for _ in range(2)]
    assert torch.equal(*again), "two runs differ"
    assert found["triton"] <= 1.1 * found["diffusers"], found
    return found


@torch.no_grad()
def versions(case: Case, theirs: Any, ours: Any, compiled: bool) -> dict[str, Any]:
    """Callables of no arguments, each one call of the network."""
    latents, timestep, text = inputs(case)
    prepared = ours.prepare_text(text)
    memory = None
    if case.causal:
        memory = ours.absorb(torch.randn_like(latents), prepared)

    def run(kernels: str) -> Any:
        def call() -> torch.Tensor:
            ours.kernels = kernels
            return ours(latents, timestep, prepared, memory=memory, first_frame=10 if memory else 0)

        return call

    found = {"ours": run("triton"), "ours, plain": run("reference")}
    found["diffusers"] = lambda: theirs(latents, text, timestep).sample
    if compiled:
        for block in theirs.transformer_blocks:
            block.compile()
        found["diffusers compiled"] = found.pop("diffusers")
    return found


@torch.no_grad()
def measure(calls: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Median, spread and peak of each version; passes alternate."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    peaks: dict[str, float] = {}
    for number in range(WARM + PASSES):
        for name, call in calls.items():
            torch.cuda.reset_peak_memory_stats()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if number >= WARM:
                times[name].append(begin.elapsed_time(end))
                peaks[name] = torch.cuda.max_memory_allocated() / 2**30
    return {
        name: {
            "ms": statistics.median(taken),
            "spread": (max(taken) - min(taken)) / statistics.median(taken),
            "peak_gib": peaks[name],
        }
        for name, taken in times.items()
    }


def profile(call: Any, rows: int = 25) -> str:
    from torch.profiler import ProfilerActivity

    with torch.no_grad(), torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    return found.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=rows, max_name_column_width=60
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["480p", "720p", "chunk"])
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    card = torch.cuda.get_device_name()
    versions_used = {name: version(name) for name in ("torch", "triton", "diffusers")}
    report: dict[str, Any] = {"gpu": card, **versions_used, "cases": {}}
    for name in options.cases:
        case = CASES[name]
        found: dict[str, Any] = {"error": check(case)}
        print(name, "errors against float64:", found["error"], flush=True)
        theirs, ours = build(case)
        calls = versions(case, theirs, ours, compiled=False)
        found |= measure(calls)
        if options.profile:
            print(profile(calls["ours"]))
        if not options.no_compile:
            compiled = versions(case, theirs, ours, compiled=True)
            del compiled["ours, plain"]
            found |= {
                f"{key} (beside compiled)" if key == "ours" else key: v
                for key, v in measure(compiled).items()
            }
        for name_of, told in found.items():
            if "ms" in told:
                told["share"] = case.flop / RATE / told["ms"] * 1e3
                print(f"{name} {name_of}: {told['ms']:.1f} ms, spread {told['spread']:.1%}, peak {told['peak_gib']:.2f} GiB,"
                      f" {told['share']:.1%} of 790 TFLOP/s", flush=True)  # fmt: skip
        report["cases"][name] = found
        del theirs, ours, calls
        compiled = None
        gc.collect()
        torch.cuda.empty_cache()
    if options.out:
        (options.out / "transformer.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
