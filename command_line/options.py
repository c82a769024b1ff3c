"""Options of `generate` and `film`."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from pathlib import Path

# none of these imports torch, so that `sana-video --help` answers at once
from ..sana_video_core.config import (
    CLIP_SAMPLERS,
    CODECS,
    DTYPES,
    FAMILIES,
    OVERLAPS,
    PROMPT_CHANGES,
    STREAM_RULES,
    STREAM_SAMPLERS,
)
from ..sana_video_core.errors import SanaVideoError
from ..sana_video_core.shapes import check_picture
from .loras import add_lora_option


def add_generate(generate: argparse.ArgumentParser) -> None:
    """Options of `generate`."""
    add = generate.add_argument
    add("prompts", nargs="+", metavar="PROMPT", help="one prompt per shot")
    add(
        "--out",
        type=Path,
        help="the mp4 to write, over an older one of that name; by default video.mp4, or video-2.mp4 and so "
        "on where that is taken (a clip also as .latent, for ComfyUI's Load Latent)",
    )
    add("--sheet", type=Path, help="also write a contact sheet (png)")
    add(
        "--preview",
        type=Path,
        metavar="FILE.png",
        help="keep the newest small picture there while it works, for a viewer that reads it again",
    )
    add("--seed", type=int, default=0)
    add("--size", type=_size, metavar="WIDTHxHEIGHT", help="the model's own size by default")
    add("--image", type=Path, help="begin from this image")
    add("--steps", type=int, help="the family's own by default: 4 or 50")
    add(
        "--sampler",
        choices=tuple(dict.fromkeys(STREAM_SAMPLERS + CLIP_SAMPLERS)),
        help="the family's own by default",
    )
    add("--motion-score", type=int, help="added to the prompt: 10 (LongSANA) is calm, 30 (480p, 720p) lively")
    add("--instruction", help="text before each prompt, instead of the original system prompt; '' for none")

    _add_models(generate)
    _add_kinds(generate)


def _add_models(generate: argparse.ArgumentParser) -> None:
    """Options that say which models, and where they compute."""
    models = generate.add_argument_group("models (the demo set by default)")
    models.add_argument(
        "--model", type=Path, help="transformer file or folder, or a whole diffusers pipeline folder"
    )
    models.add_argument(
        "--text-encoder", type=Path, help="Gemma-2-2B-it: a folder, or one file as ComfyUI has it"
    )
    models.add_argument(
        "--vae",
        type=Path,
        help="VAE file or folder (bf16 on a GPU): Wan 2.1's, or LTX-2's for 720p; or a draft decoder of Wan "
        "2.1's latents: taew2_1, lighttaew2_1",
    )
    models.add_argument("--family", choices=FAMILIES, help="needed where the weights don't show it")
    models.add_argument("--config", type=Path, help="a diffusers config.json, if none is beside the model")
    add_lora_option(models)
    models.add_argument("--device", default="auto", help="auto, cpu or cuda")
    models.add_argument("--vae-device", metavar="DEVICE", help="where the VAE computes; --device by default")
    models.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of the transformer")
    models.add_argument(
        "--tile", type=int, help="decode in tiles of this many latents (small GPUs: 32, 720p: 16)"
    )


def add_film(film: argparse.ArgumentParser) -> None:
    """Options of `film`."""
    add = film.add_argument
    add("script", type=Path, help="a text file, a line a shot: “0:05 the fox stops”; docs/films.md")
    add("--out", type=Path, help="the mp4 to write; by default the script's name with .mp4")
    add("--seconds", type=float, default=15.0, help="the length, if the script has no “end” line")
    add("--seed", type=int, default=0, help="scene k (counted from 0) has this seed + k")
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take what the store has of this film and of others that begin like it",
    )
    add("--store", type=Path, help="where chunks are kept; by default sana_films/store beside the film")
    add("--anywhere", action="store_true", help="also take chunks that another machine or version made")
    add("--state-in", type=Path, help="continue from this state; the film shows what is new")
    add("--state-out", type=Path, help="save the state at the end of the film")
    add("--light", action="store_true", help="--state-out without the memory, which is made again later")
    add("--image", type=Path, help="begin from this image")
    add("--video", type=Path, help="continue the last 10 seconds of this video")
    add("--audio", type=Path, help="sound for the film, from a sound or video file, cut to its length")
    add("--sheet", type=Path, help="also write a contact sheet (png)")
    add("--preview", type=Path, metavar="FILE.png", help="keep the newest small picture there meanwhile")
    add("--size", type=_size, metavar="WIDTHxHEIGHT", help="the model's own size by default")
    add("--steps", type=int, help="4 by default")
    add("--sampler", choices=STREAM_SAMPLERS, help="the family's own by default")
    add("--rule", choices=STREAM_RULES, default=STREAM_RULES[0], help="of few_step")
    add("--window", type=int, help="earlier chunks to look back on (0, the default: all)")
    add("--motion-score", type=int, help="added to each prompt: 10 is calm")
    add("--instruction", help="text before each prompt, instead of the original system prompt; '' for none")
    add("--overlap", choices=OVERLAPS, default=OVERLAPS[0], help="decode while the next chunk is sampled")
    add("--codec", choices=CODECS, default=CODECS[0], help="h264_nvenc: by an NVIDIA GPU that can")
    add("--fps", type=_rate, help="frames per second of the mp4; 16 by default")
    _add_models(film)


def _add_kinds(generate: argparse.ArgumentParser) -> None:
    """Options that only streams or only clips have."""
    stream = generate.add_argument_group("streams (LongSANA, demo)")
    stream.add_argument(
        "--chunks", type=int, default=1, help="chunks per shot: 41 frames at the start, then 40 each"
    )
    stream.add_argument("--state-in", type=Path, help="continue from this state")
    stream.add_argument("--state-out", type=Path, help="save the state to continue from")
    stream.add_argument(
        "--light", action="store_true", help="--state-out without the memory, which --state-in makes again"
    )
    stream.add_argument("--video", type=Path, help="continue the last 10 seconds of this video")
    stream.add_argument(
        "--on-prompt-change",
        choices=PROMPT_CHANGES,
        default=PROMPT_CHANGES[0],
        help="read the last chunk again (default), leave the memory as it is, or begin a scene and its noise",
    )
    stream.add_argument(
        "--rule",
        choices=STREAM_RULES,
        help="of few_step: as in training (default), or as the original runs it",
    )
    stream.add_argument("--window", type=int, help="earlier chunks to look back on (0, the default: all)")
    stream.add_argument(
        "--overlap",
        choices=OVERLAPS,
        default=OVERLAPS[0],
        help="decode a chunk while the next is sampled; by default where the GPU has room for both",
    )

    clip = generate.add_argument_group("clips (the other families)")
    clip.add_argument("--frames", type=int, help="4n+1 (480p) or 8n+1 (720p); by default the family's own")
    clip.add_argument("--cfg", type=float, help="guidance; by default 6, or 8 for SANA-Video 2.0")
    clip.add_argument("--negative", default="", help="what to avoid")
    clip.add_argument(
        "--noise", type=Path, help="start from this tensor (.pt, .safetensors, .latent) instead of --seed's"
    )
    clip.add_argument("--sequential", action="store_true", help="guidance in two calls: less memory")
    generate.add_argument(
        "--codec",
        choices=CODECS,
        default=CODECS[0],
        help="h264_nvenc: by the encoder of an NVIDIA GPU, which A100 and H100 lack",
    )
    generate.add_argument(
        "--fps",
        type=_rate,
        help="frames per second of the mp4: 24, 29.97, 30000/1001 …; by default the family's own, 16 or 24",
    )


class Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def _rate(text: str) -> Fraction:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(?:/([1-9]\d{0,5}))?", text)
    if match is None:
        words = f"“{text}” isn't a rate; write frames per second, for example 24, 29.97 or 30000/1001"
        raise argparse.ArgumentTypeError(words)
    return Fraction(match[1]) / int(match[2] or 1)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"“{text}” isn't a size; write WIDTHxHEIGHT, for example 832x480")
    width, height = int(match[1]), int(match[2])
    try:
        check_picture(height, width)
    except SanaVideoError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return width, height
