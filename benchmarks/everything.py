"""Runs all benchmarks: correctness, speed up to 641 frames, 2.0, a stream, the past, the VAE, prompt to mp4.

    python -m comfyui_sana_video.benchmarks.everything [--out FOLDER]

Needs a GPU and diffusers 0.42, and takes about twenty minutes on an H100. Where time on the card is short,
each part also runs alone: transformer with its cases, transformer2, stream, length, decode, decode_ltx,
end_to_end, film.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from .plot import draw_files
from .report import RESULTS, gpu
from .transformer import CASES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results and the plots")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    # each in its own process, so that none inherits memory or errors; the stream runs on a hot card
    whole = ("end_to_end", "--parts", "3"), ("film",)
    decoders = ("decode",), ("decode_ltx",)
    parts = ("transformer", *CASES), ("transformer2",), ("stream",), ("length",), *decoders, *whole
    for name, *arguments in parts:
        module = f"{__package__}.{name}"
        subprocess.run([sys.executable, "-m", module, *arguments, "--out", str(out)], check=True)
    draw_files(out, gpu(), out)


if __name__ == "__main__":
    main()
