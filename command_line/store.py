"""`sana-video store`: what films keep on the disk, and making it less. Without torch."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from ..sana_video_core.errors import InputError
from ..sana_video_core.files.places import is_file
from ..sana_video_core.films.layout import IN_OUTPUT, KINDS, MARK
from ..sana_video_core.films.manifest import Manifest
from ..sana_video_core.films.prune import Plan, Pruned, prune
from ..sana_video_core.films.survey import Item, Survey, size_of, survey

AGES = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}  # seconds
SIZES = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
DAY = AGES["d"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        help="the store, or the folder of ComfyUI or of films that has one; the current folder by default",
    )
    parser.add_argument(
        "--prune",
        action="append",
        type=_limit,
        metavar="AGE|SIZE",
        help="take what was unused for longer (12h, 30d, 8w), or longest, until no more is left than (20GB); "
        "may be given twice",
    )
    parser.add_argument("--yes", action="store_true", help="also take what films list, without asking")


def run(options: argparse.Namespace) -> None:
    """Show a store, or prune it."""
    folder = _found(options.folder)
    limits = options.prune or []
    if len({type(limit) for limit in limits}) < len(limits):
        raise InputError("--prune was given two ages or two sizes. Give one age, one size, or one of each.")
    seen = survey(folder)
    for path, reason in seen.unread.items():
        print(
            f"The film that “{path}” describes isn't known, because the file can't be read ({reason}).",
            file=sys.stderr,
        )
    if not limits:
        print("\n".join(_shown(folder, seen)))
        return
    age = next((limit for limit in limits if isinstance(limit, float)), None)
    size = next((limit for limit in limits if isinstance(limit, int)), None)
    done = prune(folder, age=age, size=size, ask=lambda plan: options.yes or _asked(plan))
    print("\n".join(_told(done)))


def _found(folder: Path) -> Path:
    """The store in a folder, or the folder itself, which may turn out to be none."""
    places = (folder, folder / IN_OUTPUT, folder / "output" / IN_OUTPUT)
    return next((place for place in places if is_file(place / MARK)), folder)


def _limit(text: str) -> float | int:
    """An age in seconds (a float), or a size in bytes (an int)."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]+)", text)
    number, unit = (float(match[1]), match[2]) if match else (0.0, "")
    if unit.lower() in AGES:
        return number * AGES[unit.lower()]
    if unit.upper() in SIZES:
        return int(number * SIZES[unit.upper()])
    raise argparse.ArgumentTypeError(
        f"“{text}” is neither an age nor a size; write for example 12h, 30d, 8w, 500MB or 20GB"
    )


def _shown(folder: Path, seen: Survey) -> Iterable[str]:
    yield f"{folder.resolve()}: {_size(seen.size)} in {_entries(seen.items)}"
    for kind in KINDS:
        if items := [item for item in seen.items if item.kind == kind]:
            yield f"  {kind:<12}{len(items):>7}{_size(size_of(items)):>11}   last used {_ages(items)}"
    if seen.damaged:
        yield f"  {'damaged':<12}{len(seen.damaged):>7}{_size(size_of(seen.damaged)):>11}   put aside"
    for film in sorted(seen.films.values(), key=lambda film: film.made):
        items = seen.of(film)
        made = time.strftime("%Y-%m-%d", time.localtime(film.made))
        yield f"{film.path}{_state(film)}: {_size(size_of(items))} in {_entries(items)}, {made}"
    listed = seen.listed()
    if loose := [item for item in seen.items if item.name not in listed]:
        yield f"in no film: {_size(size_of(loose))} in {_entries(loose)}"


def _asked(plan: Plan) -> bool:
    """Whether a person agrees. Where nobody can be asked, nobody does."""
    for film in plan.films:
        print(f"{film.path}{_state(film)} lists some of what would go.")
    if plan.unread:
        print(
            f"{len(plan.unread)} files that describe films can't be read, so any entry may be of these films."
        )
    what = f"{_size(size_of(plan.listed))} in {_entries(plan.listed)}"
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"Take {what} of these films, too? They can be made again. [y/N] ").strip().lower() in (
            "y",
            "yes",
        )
    except EOFError:
        return False


def _told(done: Pruned) -> Iterable[str]:
    damaged = f", and {len(done.damaged)} damaged" if done.damaged else ""
    yield f"Took {_size(size_of(done.taken))} in {_entries(done.taken)}{damaged}."
    for film in done.manifests:
        yield f"{film.path} is gone, and so is what was kept of it."
    if done.kept:
        kept = f"{_size(size_of(done.kept))} in {_entries(done.kept)}"
        yield f"Films list {kept} that would have gone, too; these stay. --yes takes them."
    yield f"The store has {_size(done.size)} now."


def _state(film: Manifest) -> str:
    if not film.finished:
        return " (unfinished)"
    return "" if film.is_there else " (gone)"


def _entries(items: Iterable[Item]) -> str:
    count = len(list(items))
    return "1 entry" if count == 1 else f"{count} entries"


def _size(count: int) -> str:
    unit = next((unit for unit, size in SIZES.items() if count < 1000 * size), "TB")
    return f"{count / SIZES[unit]:.1f} {unit}"


def _ages(items: Iterable[Item]) -> str:
    used = [item.used for item in items]
    newest, oldest = _ago(max(used)), _ago(min(used))
    return newest if newest == oldest else f"{newest} to {oldest}"


def _ago(when: float) -> str:
    days = max(0, int((time.time() - when) / DAY))
    return "today" if not days else "1 day ago" if days == 1 else f"{days} days ago"
