"""How good a demo set is: a table on the screen, a JSON file and contact sheets in a folder.

python -m comfyui_sana_video.benchmarks.quality [--set FOLDER] [--only prompts,borders] [--out FOLDER] …
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path

import torch

from ..demo.model_set import DemoSet, demo_set
from ..sana_video_core.errors import SanaVideoError
from ..training.quality import Quality
from ..training.sampling import load


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures of a demo set on sentences that training never saw."
    )
    parser.add_argument("--set", type=Path, help="folder of the set (default: the demo set of the pack)")
    parser.add_argument("--count", type=int, default=64, help="clips (64)")
    parser.add_argument("--chunks", type=int, default=3, help="chunks of a clip (3)")
    parser.add_argument("--long", type=int, default=24, help="chunks of a long clip (24)")
    parser.add_argument("--long-count", type=int, default=32, help="long clips (32)")
    parser.add_argument("--batch", type=int, help="clips at a time (8 on a CPU, 32 elsewhere)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder for quality.json and the contact sheets")
    parser.add_argument(
        "--only", default=",".join(Quality.SECTIONS), help=f"of {', '.join(Quality.SECTIONS)}"
    )
    parser.add_argument("--date", default=date.today().isoformat(), help="what the JSON says (today)")
    options = parser.parse_args(arguments)
    options.only = [name for part in options.only.split(",") if (name := part.strip())]
    if not options.only:
        parser.error(f"Name a section; there are {', '.join(Quality.SECTIONS)}.")
    if unknown := set(options.only) - set(Quality.SECTIONS):
        parser.error(
            f"There is no section {', '.join(sorted(unknown))}; there are {', '.join(Quality.SECTIONS)}."
        )
    if (
        min(options.count, options.long_count, 1 if options.batch is None else options.batch) < 1
        or min(options.chunks, options.long) < 2
    ):
        parser.error(
            "Counts have to be at least 1, and chunks at least 2: the measures are about their borders."
        )
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"There is no device {options.device} here: {str(error).splitlines()[0]}")
    return options


def measured(quality: Quality, sections: list[str]) -> dict[str, dict]:
    """The tables by section; prints on stderr how long each took."""
    tables = {}
    for section in sections:
        began = time.perf_counter()
        tables[section] = quality.measure(section)
        print(f"{section}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return tables


def circumstances(options: argparse.Namespace) -> dict:
    """What the numbers depend on."""
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    sizes = {key: getattr(options, key) for key in ("count", "chunks", "long", "long_count", "batch")}
    return {
        "date": options.date,
        "torch": torch.__version__,
        "device": name,
        "threads": torch.get_num_threads(),
        "set": options.set.name if options.set else "demo",
        **sizes,
    }


def markdown(tables: dict[str, dict]) -> str:
    lines = ["| section | measure | value |", "|---|---|---:|"]
    for section, table in tables.items():
        lines += [f"| {section} | {measure} | {_number(value)} |" for measure, value in table.items()]
    return "\n".join(lines)


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    options.batch = options.batch or (8 if options.device == "cpu" else 32)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)  # now: not after an hour
    models = load(DemoSet.at(options.set) if options.set else demo_set(), options.device)
    quality = Quality(
        models,
        count=options.count,
        chunks=options.chunks,
        long=options.long,
        long_count=options.long_count,
        batch=options.batch,
    )
    tables = measured(quality, options.only)
    print(markdown(tables))
    if options.out is not None:
        content = json.dumps({**circumstances(options), **tables}, indent=2) + "\n"
        (options.out / "quality.json").write_text(content, encoding="utf-8")
        for name, sheet in quality.sheets().items():
            sheet.save(options.out / f"{name}.png")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (SanaVideoError, OSError) as error:  # a file that is missing, or of another kind
        sys.exit(str(error))
