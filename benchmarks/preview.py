"""What a playing preview costs a stream: chunks without, with latent colours, and with drafts, in turns.

    python -m comfyui_sana_video.benchmarks.preview [--chunks 24] [--turns 3] [--out FOLDER]

LongSANA 2B with random weights, bfloat16, 480 x 832, on a GPU; --demo takes the demo model on any device.
Pictures are enlarged and made JPEG files, as ComfyUI does with them, and then thrown away.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..demo.model_set import demo_set
from ..sana_video_core.callbacks import Callbacks
from ..sana_video_core.checkpoints.checkpoint import load_transformer
from ..sana_video_core.streaming.live import Drafts, StreamPreview
from ..sana_video_core.streaming.stream import Prompt, Sampling, extend, start
from ..sana_video_core.vae.colours import draft_picture, latent_pictures
from ..sana_video_core.vae.tiny_decoder import LIGHTTAEW2_1, TinyDecoder
from . import report
from .stream import build

SIDE = 512  # pixels of ComfyUI's previews
Pictures = Callable[[Tensor], Sequence[Image.Image]]


class Screen:
    """Stands for ComfyUI's server."""

    def __init__(self) -> None:
        self.shown = 0

    def show(self, picture: Image.Image) -> None:
        self.shown += 1
        large = ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.BILINEAR)
        large.save(io.BytesIO(), format="JPEG", quality=95)


def run(model: Any, size: tuple[int, int], chunks: int, pictures: Pictures) -> tuple[list[float], int]:
    """Seconds of each chunk, and how many pictures were shown."""
    screen, marks = Screen(), [0.0]
    text = torch.randn(1, 300, model.config.caption_channels, generator=torch.Generator().manual_seed(1))
    prompt = Prompt(embeddings=text, mask=torch.arange(300)[None] < 120, digest="p")
    with StreamPreview(screen.show, pictures, model.family) as preview:
        work = Callbacks(progress=preview.progress)
        state = start(model, height=size[0], width=size[1])
        marks[0] = time.perf_counter()
        for _ in extend(model, state, prompt, Sampling(seed=3), chunks=chunks, callbacks=work):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
    return [after - before for before, after in pairwise(marks)], screen.shown


def cases(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], Pictures]]:
    """Makers of pictures: they keep time, so that each run has its own."""
    draft = TinyDecoder(LIGHTTAEW2_1, device=device, dtype=dtype).eval().requires_grad_(False)

    def decode(latents: Tensor) -> Image.Image:
        return draft_picture(draft, latents)

    colours = 0.1 * torch.randn(17, 3, generator=torch.Generator().manual_seed(2))
    return {
        "without": lambda: lambda latents: [],
        "colours": lambda: lambda latents: latent_pictures(latents, colours),
        "drafts": lambda: Drafts(decode),
    }


def fastest(turns: list[list[float]]) -> float:
    """The median of the chunks' fastest times: a machine makes any chunk slower at random, none faster."""
    return statistics.median(min(chunk) for chunk in zip(*turns, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of preview_GPU.json")
    options = parser.parse_args()
    size = (192, 256) if options.demo else (480, 832)
    model = load_transformer(demo_set().transformer, dtype=torch.float32) if options.demo else build()
    run(model, size, 2, lambda latents: [])  # warms up
    made = cases(model.device, model.dtype)
    rows: dict[str, list[list[float]]] = {name: [] for name in made}
    shown = dict.fromkeys(rows, 0)
    for _ in range(options.turns):
        for name, make in made.items():
            seconds, count = run(model, size, options.chunks, make())
            rows[name].append(seconds[1:])  # the first chunk is longer, and shows estimates
            shown[name] += count
    usual = fastest(rows["without"])
    results = {
        name: {
            "s_per_chunk": fastest(turns),
            "slower": fastest(turns) / usual - 1,
            "pictures_per_chunk": shown[name] / (options.turns * options.chunks),
        }
        for name, turns in rows.items()
    }
    print(json.dumps(results, indent=1))
    if options.out is not None:
        report.write(options.out, "preview", {"cases": results})


if __name__ == "__main__":
    main()
