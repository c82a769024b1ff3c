"""A stream at the true size on one GPU: checks first, then seconds per chunk and memory over many chunks.

Usage: python benchmarks/stream.py [chunks]. Random weights of LongSANA 2B, bfloat16, 480 x 832.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import PACKAGE
from pack import Pack

PACK = Pack(PACKAGE)
STEPS = 4


def build():
    """LongSANA at its published sizes with random weights; velocities of the size of noise."""
    config, model = PACK.core("config"), PACK.core("model")
    torch.manual_seed(0)
    with torch.device("cuda"):
        network = model.SanaVideo(config.LONGSANA_480P.config, config.LONGSANA_480P, dtype=torch.bfloat16)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            torch.nn.init.ones_(parameter)
        elif parameter.ndim == 1 or name.endswith("table"):
            torch.nn.init.normal_(parameter, std=0.02)
        else:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


def run(model, state, chunks: int):
    """(state, seconds, peak GiB, bytes allocated between chunks) after each chunk."""
    stream = PACK.core("stream")
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(1, 300, 2304, generator=generator)
    prompt = stream.Prompt(embeddings=text, mask=torch.arange(300)[None] < 120, digest="p")
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for state in stream.extend(model, state, prompt, stream.Sampling(seed=3, steps=STEPS), chunks=chunks):  # noqa: B020
        torch.cuda.synchronize()
        now = time.perf_counter()
        yield state, now - began, torch.cuda.max_memory_allocated() / 2**30, torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()


def check_chain(model) -> None:
    """Chained = single at the true size, bfloat16, to the bit."""
    stream, memory = PACK.core("stream"), PACK.core("memory")
    begin = stream.start(model, height=480, width=832)
    *_, (single, *_) = run(model, begin, 2)
    *_, (first, *_) = run(model, begin, 1)
    *_, (chained, *_) = run(model, first, 1)
    pairs = zip(single.tensors(), chained.tensors(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "chained differs from single"
    print(
        json.dumps({"chained_equals_single": True, "memory_MiB": memory.memory_bytes(single.memory) / 2**20})
    )


def main(chunks: int) -> None:
    model = build()
    check_chain(model)
    begin = PACK.core("stream").start(model, height=480, width=832)
    rows = [row[1:] for row in run(model, begin, chunks)][1:]  # the first chunk is longer, and warms up
    seconds, peaks, held = zip(*rows, strict=True)
    third = len(rows) // 3
    print(
        json.dumps(
            {
                "gpu": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "case": f"LongSANA 480x832 bf16, {STEPS} steps + absorb, chunk of 10 latent frames",
                "chunks": chunks,
                "s_per_chunk_median": round(statistics.median(seconds), 4),
                "s_first_third": round(statistics.median(seconds[:third]), 4),
                "s_last_third": round(statistics.median(seconds[-third:]), 4),
                "peak_GiB_min_max": [round(min(peaks), 3), round(max(peaks), 3)],
                "held_bytes_min_max": [min(held), max(held)],
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
