"""Draws docs/speed.png and docs/chunk.png from benchmarks/results/.

    python -m comfyui_sana_video.benchmarks.plot [GPU] [--out FOLDER]

What the next chunk costs by the length of the video so far, as length.py and stream.py measured it, and where
a chunk's time goes, as end_to_end.py did.
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

STAGES = {"sampling": "#0072b2", "decoding": "#d55e00", "encoding": "#7f7f7f"}
BEFORE = {"sampling": 0.557, "decoding": 0.930}  # encoding wasn't measured; docs/log.md has more
FILMS = {
    "full, 1 GPU": "one H200, bf16",
    "fp8, 1 GPU": "the same, fp8",
    "full, 2 GPU": "two H200, bf16",
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


def draw_chunk(end_to_end: dict[str, Any]) -> Figure:
    """A bar for each way to make a film: seconds of a chunk's stages, and a line where they end together."""
    mpl.rcParams |= {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    figure = Figure(figsize=(9, 2.8), layout="constrained", dpi=110)
    axes, cases = figure.subplots(), end_to_end["cases"]
    rows = [("before, one H100, without encoding", BEFORE, sum(BEFORE.values()))]
    for case, label in FILMS.items():
        chunks = cases[case]["frames"] // 40
        stages = {stage: cases[case].get(f"{stage}_s", 0) / chunks for stage in STAGES}
        rows.append((label, stages, cases[case]["overlap on"]["total_s"] / chunks))
    for place, (_, stages, together) in enumerate(rows):
        begin = 0.0
        for stage, colour in STAGES.items():
            label = stage if place == 1 else "_"
            axes.barh(place, stages.get(stage, 0), left=begin, color=colour, height=0.6, label=label)
            begin += stages.get(stage, 0)
        label = "from prompt to mp4" if place == 0 else "_"
        axes.plot([together] * 2, [place - 0.42, place + 0.42], color="black", linewidth=2, label=label)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(right=1.05 * max(sum(stages.values()) for _, stages, _ in rows))
    axes.set_xlabel("seconds a chunk (40 frames, 2.5 s of film)")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _axes(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("seconds of video already made")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)


def draw_files(folder: Path, gpu: str, target: Path) -> None:
    """Draws what was measured on this GPU."""

    def measured(name: str) -> Any:
        path = folder / f"{name}_{gpu}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    if (length := measured("length")) and (stream := measured("stream_full")):
        draw(length, stream).savefig(target / "speed.png")
    if end_to_end := measured("end_to_end"):
        draw_chunk(end_to_end).savefig(target / "chunk.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gpu", nargs="*", default=["h100", "h200"], help="as in the names of the results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    for gpu in options.gpu:
        draw_files(RESULTS, gpu, options.out)


if __name__ == "__main__":
    main()
