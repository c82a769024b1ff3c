"""Draws the moving pictures that ComfyUI's page shows beside the workflows.

    python -m comfyui_sana_video.workflows.thumbnails [NUMBER …]

Each is the film that the built-in demo makes as that workflow does, with the words of each shot; for 8, 10
and 11, too, whose models and sizes it stands in for. They are WebP files with the only name that the page
asks packs for: .jpg. Takes minutes.
"""

from __future__ import annotations

import argparse
import textwrap
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
SIDE, CAPTION, GAP = 448, 40, 1  # the page shows a square
FRAMES, PACE = 60, 100  # of a picture, and milliseconds of each
PAPER, WHITE = (24, 26, 31), (225, 227, 232)
SEED = 5
Frame = tuple[Image.Image, str]  # and the words of its shot


class Shot(NamedTuple):
    words: str
    chunks: int = 2
    on_change: str = "recache"


RED = Shot("a red ball moves right over a blue floor")
CROSS = Shot("a green cross moves up over a black floor")
TODAY = Shot("a white star moves left over a purple floor", 4)
ORANGE = Shot("an orange triangle shrinks over a blue floor")
# by number of the workflow; two stories are shown side by side
STORIES: dict[str, list[list[Shot]]] = {
    "0": [
        [
            RED,
            Shot("a red ball turns yellow and moves in a circle over a blue floor", 1),
            Shot("a yellow ball grows over a blue floor", 1, "keep"),
            Shot("a purple ring bounces off the walls over a green floor", 2, "cut"),
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
    "5": [[ORANGE, Shot("an orange triangle turns blue and moves up over a blue floor")]],
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
    "10": [[Shot("a green star bounces off the walls over a grey floor")]],
    "11": [[Shot("a white cross spins over a brown floor")]],
}
BEGIN = {"4b": 161}  # the first frame that the workflow's video shows


def frames_of(models: Models, story: list[Shot], begin: int) -> list[Frame]:
    """FRAMES frames of a story from number `begin` on, evenly spread, each with the words of its shot."""
    state, words = None, list[str]()
    for shot in story:
        sampling = Sampling(seed=SEED, on_prompt_change=shot.on_change)
        state = sample(models, [shot.words], sampling, chunks=shot.chunks, state=state)
        words += [shot.words] * (state.frames - len(words))
    assert state is not None
    frames = torch.cat([piece[0].cpu() for piece in decode_history(models.vae, state)], dim=1)
    places = torch.linspace(begin, frames.shape[1] - 1, FRAMES).long().tolist()
    return [(Image.fromarray(to_bytes(frames[:, place])), words[place]) for place in places]


def picture(side_by_side: tuple[Frame, ...]) -> Image.Image:
    """A frame of each story, and its words below."""
    sheet = Image.new("RGB", (SIDE, SIDE), PAPER)
    width = (SIDE - GAP * (len(side_by_side) - 1)) // len(side_by_side)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, (frame, words) in enumerate(side_by_side):
        sheet.paste(fill_and_crop(frame, width, SIDE - CAPTION), (column * (width + GAP), 0))
        lines = textwrap.wrap(words, 6 + (width - 12) // 7)
        middle = column * (width + GAP) + width / 2, SIDE - CAPTION / 2
        pen.multiline_text(
            middle, "\n".join(lines), font=font, fill=WHITE, anchor="mm", align="center", spacing=2
        )
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
        stories = [frames_of(models, story, BEGIN.get(number, 0)) for story in STORIES[number]]
        first, *others = [picture(together) for together in zip(*stories, strict=True)]
        path, options = HERE / f"{NAMES[number]}.jpg", {"quality": 72, "method": 4}
        first.save(path, "WEBP", save_all=True, append_images=others, duration=PACE, loop=0, **options)
        print(number, path.stat().st_size, flush=True)


if __name__ == "__main__":
    main()
