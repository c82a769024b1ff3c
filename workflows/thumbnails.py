"""Draws the pictures that ComfyUI's page shows beside the workflows.

    python -m comfyui_sana_video.workflows.thumbnails [NAME …]

Each is a title over eight frames that the built-in demo makes as that workflow does. The demo doesn't know
the size of 08, so its picture isn't made here. Takes minutes.
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

HERE = Path(__file__).resolve().parent
SIZE, CELL, COLUMNS, BETWEEN = (512, 288), 98, 4, (26, 8)
FRAMES = 8  # in two rows
SEED = 5
PAPER, INK, GREY = (34, 36, 42), (255, 255, 255), (150, 152, 160)
SOURCE = "frames of the built-in demo: a tiny model, trained on drawn scenes"


class Shot(NamedTuple):
    words: str
    chunks: int = 2
    on_change: str = "recache"


RED = Shot("a red ball moves right over a blue floor")
CROSS = Shot("a green cross moves up over a black floor")
TODAY = Shot("a white star moves left over a purple floor", 4)
# title and stories; each story gets an equal share of the picture's frames
PICTURES: dict[str, tuple[str, list[list[Shot]]]] = {
    "00_without_downloads": (
        "Without downloads",
        [
            [
                RED,
                Shot("a red ball turns yellow and moves in a circle over a blue floor"),
                Shot("a yellow ball grows over a blue floor"),
            ]
        ],
    ),
    "01_first_long_video": (
        "One prompt, 15 seconds",
        [[Shot("a white star moves down over a purple floor", 6)]],
    ),
    "02_three_shots": (
        "Three prompts, one film",
        [
            [
                CROSS,
                Shot("a green cross turns orange and spins over a black floor"),
                Shot("a purple ring bounces off the walls over a green floor", 2, "cut"),
            ]
        ],
    ),
    "03_two_endings": (
        "Two endings from one state",
        [
            [RED, Shot("a red ball turns white and moves up over a blue floor")],
            [RED, Shot("a red ball turns green and grows over a blue floor")],
        ],
    ),
    "04_save_today": ("Save a stream today", [[TODAY]]),
    "04_continue_tomorrow": ("Continue it tomorrow", [[TODAY, TODAY]]),
    "05_from_an_image": ("Begin with a picture", [[Shot("an orange triangle shrinks over a blue floor")]]),
    "06_text_to_video_50_steps": (
        "Text to video, 50 steps",
        [[Shot("a yellow star spins over a brown floor")]],
    ),
    "07_image_to_video_50_steps": (
        "Image to video, 50 steps",
        [[Shot("a purple ball moves in a circle over a grey floor")]],
    ),
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


def picture(title: str, frames: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", SIZE, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((20, 14), title, font=ImageFont.load_default(24), fill=INK)
    for number, frame in enumerate(frames):
        row, column = divmod(number, COLUMNS)
        place = (20 + column * (CELL + BETWEEN[0]), 52 + row * (CELL + BETWEEN[1]))
        sheet.paste(fill_and_crop(frame, CELL, CELL), place)
    pen.text((20, 263), SOURCE, font=ImageFont.load_default(12), fill=GREY)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)} (all of them)")
    names = parser.parse_args().names or list(PICTURES)
    if unknown := set(names) - set(PICTURES):
        parser.error(
            f"The demo has no picture for {', '.join(sorted(unknown))}; it has one for {', '.join(PICTURES)}."
        )
    models = load(demo_set(), "cpu")
    for name in names:
        title, stories = PICTURES[name]
        frames = [frame for story in stories for frame in frames_of(models, story, FRAMES // len(stories))]
        picture(title, frames).save(HERE / f"{name}.jpg", quality=85)
        print(name, flush=True)


if __name__ == "__main__":
    main()
