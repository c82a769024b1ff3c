"""Draws docs/speed.png from benchmarks/results/: what the next chunk costs by the length of the video so far.

    python -m comfyui_sana_video.benchmarks.plot [GPU] [--out FILE.png]

length.py and stream.py measured what is drawn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SECONDS = 40 / 16  # of video in a chunk
# label, passes of the network for a chunk (four steps, and one that adds it to the past), colour
WAYS = {
    "state": ("the carried state (here)", 5, "#0072b2"),
    "everything again": ("all of the past computed again", 4, "#d55e00"),
    "full attention": ("full attention, keys and values kept (estimated)", 5, "#7f7f7f"),
}


def draw(length: dict[str, Any], stream: dict[str, Any]) -> Figure:
    """Two panels, seconds and GiB: a line for each way to know the past, dots for the chunks of a stream."""
    mpl.rcParams |= {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    panels = figure.subplots(1, 2)
    rows = length["rows"]
    made = [SECONDS * row["past_chunks"] for row in rows]
    first, last = stream["chunks"]
    later = [SECONDS * (chunk - 1) for chunk in range(first, last + 1)]
    for axes, key, dots, title in (
        (panels[0], "ms", stream["s"], "seconds for the next 2.5 s of video"),
        (panels[1], "peak_gib", stream["peak_gib"], "GiB of GPU memory at the most"),
    ):
        for way, (name, passes, colour) in WAYS.items():
            factor = passes / 1000 if key == "ms" else 1
            values = [factor * row[way][key] for row in rows]
            axes.plot(made, values, color=colour, marker="o", markersize=4, linewidth=2, label=name)
            if way == "state":
                label = f"the same, chunks {first} to {last}, fastest of {len(stream['streams'])}"
                axes.plot(later, dots, ".", color=colour, markersize=3, label=label)
        _axes(axes, title)
    panels[0].legend(frameon=False, fontsize=9, loc="center right")
    gpu = length["gpu"].removeprefix("NVIDIA ").split(" 80GB")[0]
    figure.suptitle(
        f"LongSANA 2B, 480x832, bf16, one {gpu}, without decoding", fontsize=10, x=0.01, ha="left"
    )
    return figure


def _axes(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("seconds of video already made")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)


def draw_files(folder: Path, gpu: str, target: Path) -> None:
    length, stream = (
        json.loads((folder / f"{name}_{gpu}.json").read_text(encoding="utf-8"))
        for name in ("length", "stream_full")
    )
    draw(length, stream).savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gpu", nargs="?", default="h100", help="as in the names of the results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "speed.png")
    options = parser.parse_args()
    draw_files(RESULTS, options.gpu, options.out)


if __name__ == "__main__":
    main()
