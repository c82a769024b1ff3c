"""The command line: `sana-video run | studio | generate | store | info | convert | make-demo`."""

from __future__ import annotations

import argparse
import logging
import re
import sys
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
from ..sana_video_core.errors import Cancelled, InputError, SanaVideoError
from ..sana_video_core.shapes import check_picture
from ..standalone.studio import serve as studio
from . import run as workflow
from . import store
from .loras import add_lora_option
from .process import endings_are_ctrl_c, lasting_streams

CTRL_C = 130  # the status of what was stopped


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    with lasting_streams(), endings_are_ctrl_c() as came:
        options = _parser().parse_args(arguments)
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        status = _run(options)
        return 128 + came[-1] if came and status == CTRL_C else status


def _run(options: argparse.Namespace) -> int:
    try:
        return options.run(options) or 0
    except Cancelled as stop:
        return _say(stop, CTRL_C)
    except KeyboardInterrupt:
        return _say("Stopped.", CTRL_C)
    except SanaVideoError as error:
        return _say(f"sana-video: {error}", 1)
    except OSError as error:  # of a kind that nobody asked for before
        place = f"“{error.filename}” cannot be used" if error.filename else "The system refuses this"
        return _say(f"sana-video: {place} ({error.strerror or error}). Check its name and its folder.", 1)


def _say(words: object, status: int) -> int:
    print(words, file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sana-video", description="SANA-Video and LongSANA without ComfyUI."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="a workflow file, here or on a ComfyUI server", formatter_class=_Formatter
    )
    workflow.add_arguments(run)
    run.set_defaults(run=workflow.run)
    page = commands.add_parser(
        "studio", help="ComfyUI's page in a browser, with only these nodes", formatter_class=_Formatter
    )
    studio.add_arguments(page)
    page.set_defaults(run=studio.run)
    _add_generate(commands)
    kept = commands.add_parser(
        "store", help="what films keep on the disk; make it less", formatter_class=_Formatter
    )
    store.add_arguments(kept)
    kept.set_defaults(run=store.run)

    info = commands.add_parser("info", help="say what a checkpoint, state or video file is")
    info.add_argument("file", type=Path)
    info.set_defaults(run=_info)

    convert = commands.add_parser("convert", help="original or diffusers transformer to one safetensors file")
    convert.add_argument("source", type=Path, help=".pth, .safetensors or a diffusers folder")
    convert.add_argument("target", type=Path, help="the .safetensors file to write")
    convert.add_argument("--family", choices=FAMILIES, help="needed where the weights don't show it")
    convert.add_argument("--config", type=Path, help="a diffusers config.json, if none is beside the source")
    convert.add_argument("--dtype", choices=(*DTYPES, "keep"), default=DTYPES[0])
    convert.set_defaults(run=_convert)

    demo = commands.add_parser(
        "make-demo", help="write random models of the demo's kind, in the real formats"
    )
    demo.add_argument("folder", type=Path)
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_make_demo)
    return parser


def _add_generate(commands) -> None:
    generate = commands.add_parser("generate", help="prompts to an mp4", formatter_class=_Formatter)
    add = generate.add_argument
    add("prompts", nargs="+", metavar="PROMPT", help="one prompt per shot")
    add(
        "--out",
        type=Path,
        help="the mp4 to write (720p: a .latent file), over an older one of that name; by default "
        "video.mp4, or video-2.mp4 and so on where that is taken",
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
    add("--steps", type=int, help="4 for LongSANA, 50 for the others by default")
    add(
        "--sampler",
        choices=tuple(dict.fromkeys(STREAM_SAMPLERS + CLIP_SAMPLERS)),
        help="the family's own by default",
    )
    add("--motion-score", type=int, help="added to the prompt: 10 (LongSANA) is calm, 30 (50 steps) lively")
    add("--instruction", help="text before each prompt, instead of the original system prompt; '' for none")

    _add_models(generate)
    _add_kinds(generate)
    generate.set_defaults(run=_generate)


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
        help="Wan 2.1 VAE file or folder (bf16 on a GPU), or a draft decoder: taew2_1, lighttaew2_1",
    )
    models.add_argument("--family", choices=FAMILIES, help="needed where the weights don't show it")
    models.add_argument("--config", type=Path, help="a diffusers config.json, if none is beside the model")
    add_lora_option(models)
    models.add_argument("--device", default="auto", help="auto, cpu or cuda")
    models.add_argument("--vae-device", metavar="DEVICE", help="where the VAE computes; --device by default")
    models.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of the transformer")
    models.add_argument("--tile", type=int, help="decode in tiles of this many latents (32 suits small GPUs)")


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

    clip = generate.add_argument_group("clips (the 50-step families)")
    clip.add_argument("--frames", type=int, default=81, help="4n+1 (480p) or 8n+1 (720p)")
    clip.add_argument("--cfg", type=float, help="guidance; 6 by default")
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
        help="frames per second of the mp4: 24, 29.97, 30000/1001 …; 16 by default",
    )


class _Formatter(argparse.HelpFormatter):
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


def _generate(options: argparse.Namespace) -> int:
    from .generate import generate

    return generate(options)


def _info(options: argparse.Namespace) -> None:
    from .files import describe

    print(describe(options.file))


def _convert(options: argparse.Namespace) -> None:
    from ..sana_video_core.files.claims import claim
    from ..sana_video_core.files.places import same_file
    from .files import convert

    if same_file(options.source, options.target) or same_file(options.source, options.target.parent):
        raise InputError(f"“{options.target}” is the source, or in it, and would be lost. Give another name.")
    with claim(options.target):
        print(convert(options.source, options.target, options.family, options.config, options.dtype))


def _make_demo(options: argparse.Namespace) -> None:
    from ..demo.model_set import write_demo_set

    print("\n".join(f"wrote {path}" for path in write_demo_set(options.folder, seed=options.seed)))


if __name__ == "__main__":
    sys.exit(main())
