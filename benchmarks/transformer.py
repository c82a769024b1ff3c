"""One call of the transformer at full size: correctness, then the speed of ours and diffusers, also compiled.

    python -m comfyui_sana_video.benchmarks.transformer [case …] [--no-compile] [--profile] [--out FOLDER]

Needs a GPU and diffusers 0.42; the cases are CASES. Random weights, bfloat16, 300 text tokens, no padding.
Times are medians of passes that alternate between the versions. Our text is prepared once (as in a stream),
that of diffusers in every call: a thousandth of its time.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..sana_video_core.checkpoints.keys import canonical_transformer
from ..sana_video_core.config import FAMILIES
from ..sana_video_core.transformer.model import SanaVideo
from . import report

RATE = 790e12  # FLOP/s of one H200 in bfloat16, measured: docs/log.md
OURS = {"ours": ("triton", "full"), "ours, fp8": ("triton", "fp8"), "ours, plain": ("reference", "full")}


class Case(NamedTuple):
    family: str
    shape: tuple[int, ...]  # latents [B, C, F, H, W]
    flop: float
    causal: bool = False
    passes: int = 7
    warm: int = 3
    baselines: bool = True


CASES = {
    "480p": Case("sana_video_480p", (2, 16, 21, 60, 104), 242.4e12),
    "720p": Case("sana_video_720p", (2, 128, 11, 22, 40), 71.8e12),
    "chunk": Case("longsana_480p", (1, 16, 10, 60, 104), 57.8e12, causal=True),
    "480p_161": Case("sana_video_480p", (2, 16, 41, 60, 104), 473.0e12, passes=3, warm=1),
    "480p_321": Case("sana_video_480p", (2, 16, 81, 60, 104), 934.3e12, passes=3, warm=1),
    "480p_641": Case("sana_video_480p", (2, 16, 161, 60, 104), 1856.8e12, passes=3, warm=1, baselines=False),
}


def build(case: Case, depth: int = 20, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """(diffusers' model, ours) with the same random weights."""
    from diffusers import SanaVideoTransformer3DModel

    family = FAMILIES[case.family]
    sizes = family.config
    torch.manual_seed(0)
    with torch.device("cuda"):
        theirs: Any = SanaVideoTransformer3DModel(
            in_channels=sizes.channels,
            out_channels=sizes.channels,
            num_layers=depth,
            mlp_ratio=3.0,
            patch_size=(1, sizes.patch, sizes.patch),
            sample_size=30 if sizes.patch == 2 else 22,
        )
    theirs.to(dtype)
    for name, parameter in theirs.named_parameters():
        scale = 0.02 if parameter.ndim == 1 or name.endswith("table") else parameter[0].numel() ** -0.5
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=scale)
    with torch.device("meta"):
        ours = SanaVideo(replace(sizes, depth=depth), family, dtype=dtype)
    ours.load_state_dict(canonical_transformer(theirs.state_dict()), assign=True)
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
    """Relative errors to float64 with two blocks: ours fused, in fp8 and plain, and diffusers.

    Raises AssertionError where ours fused is worse than diffusers.
    """
    theirs, ours = build(case, depth=2)
    latents, timestep, text = inputs(case)
    latents = latents[:, :, :3]
    exact = ours.double()
    exact.kernels = "reference"
    truth = exact(latents.double(), timestep, text.double())
    ours.bfloat16()
    errors = {"diffusers": relative(theirs(latents, text, timestep).sample, truth)}
    for name, (ours.kernels, ours.precision) in OURS.items():
        out, again = (ours(latents, timestep, text) for _ in range(2))
        assert torch.equal(out, again), f"{name}: two runs differ"
        errors[name] = relative(out, truth)
    assert errors["ours"] <= errors["diffusers"], errors
    assert errors["ours, fp8"] < 0.06, errors
    return errors


@torch.no_grad()
def versions(case: Case, theirs: Any, ours: Any, compiled: bool) -> dict[str, Any]:
    """Functions without arguments, each one call of the network. All share the same weights in memory."""
    latents, timestep, text = inputs(case)
    memory = ours.absorb(torch.randn_like(latents), text) if case.causal else None

    def run(name: str) -> Any:
        ours.kernels, ours.precision = OURS[name]
        prepared = ours.prepare_text(text)  # which chooses the kernels

        def call() -> torch.Tensor:
            ours.kernels, ours.precision = OURS[name]
            return ours(latents, timestep, prepared, memory=memory, first_frame=10 if memory else 0)

        return call

    calls = {name: run(name) for name in OURS}
    if not case.baselines:
        return calls
    calls["diffusers"] = lambda: theirs(latents, text, timestep).sample
    if compiled:
        torch._dynamo.reset()
        other = copy.deepcopy(theirs, {id(part): part for part in (*theirs.parameters(), *theirs.buffers())})
        for block in other.transformer_blocks:
            block.compile()
        calls["diffusers compiled"] = lambda: other(latents, text, timestep).sample
    return calls


@torch.no_grad()
def compare(calls: dict[str, Any], causal: bool) -> dict[str, Any]:
    """Relative differences of the whole network's results to ours.

    A version that can't run at this length is removed from `calls`; its entry is the error.
    """
    mine, differences = calls["ours"](), {}
    for name in list(calls):
        try:
            differences[name] = relative(calls[name](), mine)
        except RuntimeError as error:  # out of memory, or an index beyond 32 bits
            differences[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            del calls[name]
        torch.cuda.empty_cache()
    # without a memory, diffusers computes something else
    same = set(calls) - {"ours, fp8"} - ({"diffusers", "diffusers compiled"} if causal else set())
    assert all(differences[name] < 0.05 for name in same), differences
    return differences


@torch.no_grad()
def measure(calls: dict[str, Any], case: Case) -> dict[str, dict[str, float]]:
    """Median, spread and peak of each version; passes alternate."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    peaks: dict[str, float] = {}
    for number in range(case.warm + case.passes):
        for name, call in calls.items():
            torch.cuda.reset_peak_memory_stats()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if number >= case.warm:
                times[name].append(begin.elapsed_time(end))
                peaks[name] = torch.cuda.max_memory_allocated() / 2**30
    return {
        name: {
            "ms": statistics.median(taken),
            "spread": (max(taken) - min(taken)) / statistics.median(taken),
            "peak_gib": peaks[name],
            "share": case.flop / RATE / statistics.median(taken) * 1e3,
        }
        for name, taken in times.items()
    }


def profile(call: Any, rows: int = 25) -> str:
    from torch.profiler import ProfilerActivity

    with torch.no_grad(), torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    return profiler.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=rows, max_name_column_width=60
    )


def run_case(name: str, options: argparse.Namespace) -> dict[str, Any]:
    case = CASES[name]
    case = case._replace(passes=options.passes or case.passes)
    results: dict[str, Any] = {"error": check(case)}
    theirs, ours = build(case)
    calls = versions(case, theirs, ours, compiled=not options.no_compile)
    results["from_ours"] = compare(calls, case.causal)
    print(name, json.dumps(results), flush=True)
    calls.pop("ours, plain", None)
    results["times"] = measure(calls, case)
    results["passes"] = case.passes
    for version, measured in results["times"].items():
        print(
            f"{name} {version}: {measured['ms']:.1f} ms, spread {measured['spread']:.1%}, "
            f"peak {measured['peak_gib']:.2f} GiB, {measured['share']:.1%} of 790 TFLOP/s",
            flush=True,
        )
    if options.profile:
        print(profile(calls["ours"]), flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["480p", "720p", "chunk"])
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--passes", type=int, help="timed passes, in place of the case's number")
    parser.add_argument("--out", type=Path, help="folder of transformer_GPU.json, written after each case")
    options = parser.parse_args()
    for name in options.cases:
        report.write(options.out, "transformer", {"cases": {name: run_case(name, options)}})
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
