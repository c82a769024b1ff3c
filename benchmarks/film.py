"""A film over its store at full size: first, again, after a kill; and what the store costs.

    python -m comfyui_sana_video.benchmarks.film [chunks] [--precision fp8] [--vae-device cuda:1] [--out …]

The models of end_to_end.py. `first` makes the film with an empty store, `bare` without one, `again` takes all
of it from the store, and `after a kill` lacks the last chunk: its time counts until sampling goes on, with
loaded models. `--tiny` runs small networks on any device: the script, not the speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ..sana_video_core.callbacks import Callbacks, Progress
from ..sana_video_core.files.encoders import PRESET
from ..sana_video_core.files.film_file import FilmFile
from ..sana_video_core.films.film import Film, outline_of
from ..sana_video_core.films.layout import entry_path
from ..sana_video_core.films.making import Making, Request, plan_making
from ..sana_video_core.films.memories import StoreShelf
from ..sana_video_core.films.naming import Namer
from ..sana_video_core.films.projector import Screen
from ..sana_video_core.films.reel import Reel, look_of
from ..sana_video_core.films.store import Store
from ..sana_video_core.streaming.rebuild import MemoryCache
from ..sana_video_core.streaming.stream import Sampling, start
from ..sana_video_core.vae.reach import decoder_reach
from . import report
from .end_to_end import STEPS, Setup, full, tiny
from .timing import cores, devices_of, timed

FPS, CODEC = Fraction(16), "h264"


def planned(setup: Setup, chunks: int, store: Store | None) -> Making:
    request = Request(prompt=setup.prompt, sampling=Sampling(seed=3, steps=STEPS), chunks=chunks)
    begin = start(setup.model, height=setup.height, width=setup.width)
    return plan_making(
        setup.model, begin, [request], namer=Namer("random weights", setup.model.maker), store=store
    )


def film(
    setup: Setup,
    path: Path,
    chunks: int,
    store: Store | None,
    overlap: bool,
    hear: Callable[[Progress], None] = lambda news: None,
) -> int:
    """A film of one shot, as the film node and `sana-video film` make it; returns its frames."""
    making = planned(setup, chunks, store)
    outline = outline_of(making, 0)
    with FilmFile(path, fps=FPS) as file:
        look = look_of(setup.vae, setup.vae_device, "random weights", fps=FPS, codec=CODEC)
        made = Film(
            making=making,
            outline=outline,
            file=file,
            reel=Reel(file, outline.parts, codec=CODEC, look=look, store=store),
            screen=Screen(
                decoder=setup.vae,
                device=setup.vae_device,
                overlap=lambda: overlap,
                reach=decoder_reach(setup.vae),
            ),
            shelf=StoreShelf(MemoryCache(), store) if store else None,
        )
        for _ in made.states(sampling=Callbacks(progress=hear), decoding=Callbacks()):
            pass
    return file.frames


def until_sampling(setup: Setup, path: Path, chunks: int, store: Store, overlap: bool) -> float:
    """Seconds until the first call of a film that lacks its last chunk is done; the film is finished."""
    making = planned(setup, chunks, store)
    entry_path(store.folder, "chunks", making.pieces[-1].name.key).unlink()
    begun, came = time.perf_counter(), list[float]()

    def hear(news: Progress) -> None:
        if news.chunk == chunks and not came:
            came.append(time.perf_counter() - begun)

    film(setup, path, chunks, store, overlap, hear)
    return came[0]


def run_case(setup: Setup, chunks: int, precision: str, overlap: bool) -> dict[str, Any]:
    setup.model.precision = precision
    devices = setup.devices
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film(setup, folder / "warm.mp4", min(3, chunks), Store(folder / "warm"), overlap)
        store = Store(folder / "store")
        frames, bare, _ = timed(lambda: film(setup, folder / "bare.mp4", chunks, None, overlap), *devices)
        _, first, peak = timed(lambda: film(setup, folder / "first.mp4", chunks, store, overlap), *devices)
        _, again, _ = timed(lambda: film(setup, folder / "again.mp4", chunks, store, overlap), *devices)
        goes_on = until_sampling(setup, folder / "killed.mp4", chunks, store, overlap)
        kept = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
    return {
        "frames": frames,
        "bare_s": bare,
        "first_s": first,
        "frames_per_s": frames / first,
        "store_share": (first - bare) / bare,
        "again_s": again,
        "after_a_kill_s": goes_on,
        "store_mb": kept / 1e6,
        "peak_gib": peak,
    }


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chunks", nargs="?", type=int, default=24)
    parser.add_argument("--precision", choices=("full", "fp8"), action="append", help="both by default")
    parser.add_argument("--vae-device", type=torch.device, help="the transformer's by default")
    parser.add_argument("--in-turn", action="store_true", help="decode after each chunk, not beside the next")
    parser.add_argument("--tiny", action="store_true", help="small networks on the CPU")
    parser.add_argument("--out", type=Path, help="folder of film_GPU.json, written after each case")
    options = parser.parse_args(arguments)
    setup = tiny() if options.tiny else full(options.vae_device or torch.device("cuda", 0))
    gpus = len(devices_of(*setup.devices)) or "no"
    for precision in options.precision or (("full",) if options.tiny else ("full", "fp8")):
        case: dict[str, Any] = {
            "case": f"{setup.width}x{setup.height}, {options.chunks} chunks, {STEPS} steps, {gpus} GPU",
            "preset": PRESET,
            "cpu_cores": cores(),
            "overlap": not options.in_turn,
        }
        case |= run_case(setup, options.chunks, precision, not options.in_turn)
        print(json.dumps({precision: case}), flush=True)
        report.write(options.out, "film", {"cases": {f"{precision}, {gpus} GPU": case}})


if __name__ == "__main__":
    main()
