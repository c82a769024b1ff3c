"""A stream at full size on one GPU: checks first, then seconds per chunk and memory over many chunks.

    python -m comfyui_sana_video.benchmarks.stream [chunks] [--warm 20] [--streams 3] [--out FOLDER]

LongSANA 2B with random weights, bfloat16 (or --precision fp8), 480 x 832.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import combinations
from pathlib import Path

import torch

from ..sana_video_core.config import LONGSANA_480P
from ..sana_video_core.streaming.stream import Prompt, Sampling, extend, start
from ..sana_video_core.transformer.memory import memory_bytes
from ..sana_video_core.transformer.model import SanaVideo
from ..sana_video_core.transformer.pass_graphs import graphs_where_they_pay
from . import report

STEPS, FRAMES = 4, 10


def build() -> SanaVideo:
    """LongSANA at its published sizes with random weights; velocities of the size of noise."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        network = SanaVideo(LONGSANA_480P.config, LONGSANA_480P, dtype=torch.bfloat16)
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
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(1, 300, 2304, generator=generator)
    prompt = Prompt(embeddings=text, mask=torch.arange(300)[None] < 120, digest="p")
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for state in extend(model, state, prompt, Sampling(seed=3, steps=STEPS), chunks=chunks):  # noqa: B020
        torch.cuda.synchronize()
        now = time.perf_counter()
        yield state, now - began, torch.cuda.max_memory_allocated() / 2**30, torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()


def check_chain(model) -> None:
    """Two calls of one chunk are bit-exact with one call of two, at full size in bfloat16."""
    begin = start(model, height=480, width=832)
    *_, (single, *_) = run(model, begin, 2)
    *_, (first, *_) = run(model, begin, 1)
    *_, (chained, *_) = run(model, first, 1)
    pairs = zip(single.tensors(), chained.tensors(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "chained differs from single"
    print(json.dumps({"chained_equals_single": True, "memory_MiB": memory_bytes(single.memory) / 2**20}))


def rise(values) -> float:
    """How much the values rise from the first to the last, relative to their median.

    The slope is the median of all pairs' slopes (Theil-Sen), so that a hiccup of the machine isn't a trend.
    """
    slopes = [(b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(values), 2)]
    return statistics.median(slopes) * (len(values) - 1) / statistics.median(values)


def least_squares_rise(values) -> float:
    """The same by a least-squares line through all values: hiccups count."""
    places = range(len(values))
    slope = statistics.linear_regression(places, values).slope
    return slope * (len(values) - 1) / statistics.mean(values)


def summary(streams, warm: int) -> dict:
    """Summarises rows (seconds, peak, held) of each chunk of each stream, without the first `warm` chunks.

    The machine makes any chunk up to a tenth slower at random, and none faster. So the trend is that of each
    chunk's fastest time over all streams; the median is that of all times.
    """
    streams = [rows[warm:] for rows in streams]
    every = [tuple(seconds for seconds, _, _ in rows) for rows in streams]
    fastest = tuple(min(chunk) for chunk in zip(*every, strict=True))
    _, peaks, held = zip(*streams[-1], strict=True)
    return {
        "chunks": [warm + 1, warm + len(fastest)],
        "s_per_chunk_median": statistics.median(second for stream in every for second in stream),
        "s_rise": rise(fastest),
        "s_rise_by_least_squares": least_squares_rise(fastest),
        "peak_gib_median": statistics.median(peaks),
        "peak_rise": rise(peaks),
        "held_rise": rise(held),
        "s": fastest,
        "streams": every,
        "peak_gib": peaks,
        "held_bytes": held,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chunks", nargs="?", type=int, default=60)
    parser.add_argument("--warm", type=int, default=20, help="chunks before those: a hot card is slower")
    parser.add_argument("--streams", type=int, default=3, help="repeats; the fastest time of a chunk counts")
    parser.add_argument("--precision", default="full")
    parser.add_argument("--out", type=Path, help="folder of stream_PRECISION_GPU.json")
    options = parser.parse_args()
    model = build()
    model.graphs = graphs_where_they_pay(model.device)
    check_chain(model)
    model.precision = options.precision
    begin = start(model, height=480, width=832)
    streams = [
        [row[1:] for row in run(model, begin, options.warm + options.chunks)] for _ in range(options.streams)
    ]
    results = {
        "case": f"LongSANA 480x832 bf16, {STEPS} steps + absorb, chunk of {FRAMES} latent frames",
        "precision": options.precision,
        **summary(streams, options.warm),
    }
    short = {k: value for k, value in results.items() if k == "chunks" or not isinstance(value, tuple | list)}
    print(json.dumps(short))
    report.write(options.out, f"stream_{options.precision}", results)


if __name__ == "__main__":
    main()
