"""What the next chunk of a stream costs by the length of its video, with the carried state and without one.

    python -m comfyui_sana_video.benchmarks.length [--out FOLDER]

LongSANA 2B at 480 x 832 with random weights, bfloat16, one pass of 10 latent frames. Three ways to know the
past, each with our fastest kernels: the state; all chunks computed again with the new one; full (softmax)
attention to cached keys and values. The last is an estimate: our pass, plus PyTorch's attention measured on
one block, times the number of blocks. Its memory is our peak plus the bytes of the keys and values.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from . import report
from .stream import FRAMES, build

CASE = f"LongSANA 480x832 bf16, one pass of {FRAMES} latent frames behind a number of chunks"
PAST = (1, 2, 4, 8, 16)  # chunks
PASSES, WARM = 5, 2
ROWS = FRAMES * 30 * 52  # tokens of a chunk


def timed(call: Any) -> tuple[float, float]:
    """(milliseconds, peak GiB), the median of a few passes."""
    times = []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM + PASSES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[WARM:]), torch.cuda.max_memory_allocated() / 2**30


@torch.no_grad()
def with_state(model: Any, past: int) -> tuple[float, float]:
    """One pass of the network with the state of `past` chunks."""
    text = model.prepare_text(torch.randn(1, 300, 2304, device="cuda"))
    chunk, memory = torch.randn(1, 16, FRAMES, 60, 104, device="cuda", dtype=torch.bfloat16), None
    for number in range(past):
        memory = model.absorb(chunk, text, memory=memory, first_frame=number * FRAMES)
    t = torch.tensor([727], device="cuda")
    return timed(lambda: model(chunk, t, text, memory=memory, first_frame=past * FRAMES))


@torch.no_grad()
def again(model: Any, past: int) -> tuple[float, float]:
    """One pass over all chunks at once."""
    text = model.prepare_text(torch.randn(1, 300, 2304, device="cuda"))
    clip = torch.randn(1, 16, (past + 1) * FRAMES, 60, 104, device="cuda", dtype=torch.bfloat16)
    return timed(lambda: model(clip, torch.tensor([727], device="cuda"), text))


@torch.no_grad()
def softmax(config: Any, past: int) -> tuple[float, float]:
    """Softmax attention of a chunk to itself and its past, all blocks: (ms, GiB of keys and values)."""
    heads, size = config.width // config.head_dim, config.head_dim
    q = torch.randn(1, heads, ROWS, size, device="cuda", dtype=torch.bfloat16)
    k, v = (
        torch.randn(1, heads, ROWS * (past + 1), size, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    )
    one, _ = timed(lambda: F.scaled_dot_product_attention(q, k, v))
    return config.depth * one, config.depth * 2 * k.numel() * k.element_size() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of length_GPU.json")
    options = parser.parse_args()
    model, rows = build(), []
    for past in PAST:
        torch.cuda.empty_cache()
        state, state_peak = with_state(model, past)
        whole, whole_peak = again(model, past)
        attention, kept = softmax(model.config, past)
        rows.append({
            "past_chunks": past,
            "state": {"ms": state, "peak_gib": state_peak},
            "everything again": {"ms": whole, "peak_gib": whole_peak},
            "full attention": {"ms": state + attention, "peak_gib": state_peak + kept},
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    report.write(options.out, "length", {"case": CASE, "rows": rows})


if __name__ == "__main__":
    main()
