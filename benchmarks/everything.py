"""All of it in one command: the gates, the table, lengths to 641 frames, a stream, the cost of a past, and the plot of them.

Usage: python benchmarks/everything.py [--out FOLDER], on a machine with a GPU and diffusers 0.42; some ten minutes on an H100. Each part can be
run alone (transformer.py with its cases, stream.py, length.py), where time on the card is short.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from plot import draw_files
from report import RESULTS, gpu
from transformer import CASES

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results and of speed.png")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    # each in a process of its own: what one holds or fails at is nothing to the next; the stream comes when the card is hot
    for words in (("transformer.py", *CASES), ("stream.py",), ("length.py",)):
        subprocess.run([sys.executable, str(HERE / words[0]), *words[1:], "--out", str(out)], check=True)
    draw_files(out, gpu(), out / "speed.png")


if __name__ == "__main__":
    main()
