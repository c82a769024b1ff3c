"""The command line: `sana-video run | studio | generate | store | info | convert | make-demo`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

# none of these imports torch, so that `sana-video --help` answers at once
from ..sana_video_core.config import (
    DTYPES,
    FAMILIES,
)
from ..sana_video_core.errors import Cancelled, InputError, SanaVideoError
from ..standalone.studio import serve as studio
from . import run as workflow
from . import store
from .film_script import read_script
from .options import Formatter, add_film, add_generate
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
        "run", help="a workflow file, here or on a ComfyUI server", formatter_class=Formatter
    )
    workflow.add_arguments(run)
    run.set_defaults(run=workflow.run)
    page = commands.add_parser(
        "studio", help="ComfyUI's page in a browser, with only these nodes", formatter_class=Formatter
    )
    studio.add_arguments(page)
    page.set_defaults(run=studio.run)
    generate = commands.add_parser("generate", help="prompts to an mp4", formatter_class=Formatter)
    add_generate(generate)
    generate.set_defaults(run=_generate)
    film = commands.add_parser(
        "film", help="a script to an mp4, resumed where it ended", formatter_class=Formatter
    )
    add_film(film)
    film.set_defaults(run=_film)
    kept = commands.add_parser(
        "store", help="what films keep on the disk; make it less", formatter_class=Formatter
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


def _generate(options: argparse.Namespace) -> int:
    from .generate import generate

    return generate(options)


def _film(options: argparse.Namespace) -> int:
    text = read_script(options)  # its mistakes are said before torch is there
    from .film import film

    return film(options, text)


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
