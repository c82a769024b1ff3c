"""Draws the pictures that ComfyUI's page shows beside the workflows.

    python -m comfyui_sana_video.workflows.thumbnails [NUMBER …]

Each is four frames that the built-in demo makes as that workflow does; for 8, too, whose size it doesn't
know. Takes minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont

from ..demo.model_set import demo_set
from ..sana_video_core.files.image_file import fill_and_crop, to_bytes
from ..sana_video_core.streaming.decoding import decode_history
from ..sana_video_core.streaming.stream import Sampling
from ..training.sampling import Models, load, sample
from .build import NAMES

HERE = Path(__file__).resolve().parent
CELL, CAPTION = 230, 24  # the page shows a square
PAPER, GREY = (34, 36, 42), (170, 172, 180)
SOURCE = "made by the built-in demo model"
SEED = 5


class Shot(NamedTuple):
    words: str
    chunks: int = 2
    on_change: str = "recache"


RED = Shot("a red ball moves right over a blue floor")
CROSS = Shot("a green cross moves up over a black floor")
TODAY = Shot("a white star moves left over a purple floor", 4)
ORANGE = Shot("an orange triangle shrinks over a blue floor")
# by number of the workflow; each story gets an equal share of the picture's frames
STORIES: dict[str, list[list[Shot]]] = {
    "0": [
        [
            RED,
            Shot("a red ball turns yellow and moves in a circle over a blue floor"),
            Shot("a yellow ball grows over a blue floor"),
        ]
    ],
    "1": [[Shot("a white star moves down over a purple floor", 6)]],
    "2": [
        [
            CROSS,
            Shot("a green cross turns orange and spins over a black floor"),
            Shot("a purple ring bounces off the walls over a green floor", 2, "cut"),
        ]
    ],
    "3": [
        [RED, Shot("a red ball turns white and moves up over a blue floor")],
        [RED, Shot("a red ball turns green and grows over a blue floor")],
    ],
    "4a": [[TODAY]],
    "4b": [[TODAY, Shot("a white star turns orange and grows over a purple floor", 4)]],
    "5": [[ORANGE]],
    "6": [[Shot("a yellow star spins over a brown floor")]],
    "7": [[Shot("a purple ball moves in a circle over a grey floor")]],
    "8": [[Shot("a blue ring grows over a green floor")]],
    "9": [
        [
            Shot("an orange square moves right over a grey floor"),
            Shot("an orange square turns blue and moves down over a grey floor"),
            Shot("a blue square grows over a grey floor", 1, "keep"),
            Shot("a yellow ring bounces off the walls over a purple floor", 2, "cut"),
        ]
    ],
}


def frames_of(models: Models, story: list[Shot], count: int) -> list[Image.Image]:
    """`count` frames of a story, evenly spread over it."""
    state = None
    for shot in story:
        sampling = Sampling(seed=SEED, on_prompt_change=shot.on_change)
        state = sample(models, [shot.words], sampling, chunks=shot.chunks, state=state)
    assert state is not None
    frames = torch.cat([piece[0].cpu() for piece in decode_history(models.vae, state)], dim=1)
    places = torch.linspace(0, frames.shape[1] - 1, count).long().tolist()
    return [Image.fromarray(to_bytes(frames[:, place])) for place in places]


def picture(frames: list[Image.Image]) -> Image.Image:
    """Two by two."""
    sheet = Image.new("RGB", (2 * CELL + 2, 2 * CELL + 2 + CAPTION), PAPER)
    for number, frame in enumerate(frames):
        row, column = divmod(number, 2)
        sheet.paste(fill_and_crop(frame, CELL, CELL), (column * (CELL + 2), row * (CELL + 2)))
    pen = ImageDraw.Draw(sheet)
    pen.text((8, 2 * CELL + 6), SOURCE, font=ImageFont.load_default(15), fill=GREY)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", metavar="NUMBER", help=f"of {', '.join(STORIES)} (all of them)")
    numbers = parser.parse_args().numbers or list(STORIES)
    if unknown := set(numbers) - set(STORIES):
        parser.error(f"There is no workflow {', '.join(sorted(unknown))}; there are {', '.join(STORIES)}.")
    models = load(demo_set(), "cpu")
    for number in numbers:
        stories = STORIES[number]
        frames = [frame for story in stories for frame in frames_of(models, story, 4 // len(stories))]
        picture(frames).save(HERE / f"{NAMES[number]}.jpg", quality=88)
        print(number, flush=True)


if __name__ == "__main__":
    main()
