"""The store of chunks in ComfyUI's output folder, and what a MODEL's chunks are called there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import folder_paths

from ..sana_video_core.errors import FileError
from ..sana_video_core.films.contents import transformer_content
from ..sana_video_core.films.layout import IN_OUTPUT
from ..sana_video_core.films.naming import Namer
from ..sana_video_core.films.store import Store
from .progress import interrupted
from .stream_model import HostedModel
from .words import say_progress

logger = logging.getLogger("sana_video")


class Named(NamedTuple):
    """A store, and the names of what a model makes."""

    store: Store
    namer: Namer


def output_store() -> Store:
    return Store(Path(folder_paths.get_output_directory()) / IN_OUTPUT)


@contextmanager
def store_for(model: HostedModel) -> Iterator[Named | None]:
    """The store, held in the block; None, with a warning, where it can't be used with this MODEL."""
    with ExitStack() as held:
        try:
            named = _named(model, held)
        except FileError as error:
            logger.warning("The store is passed by, so these chunks aren't kept: %s", error)
            named = None
        yield named


def _named(model: HostedModel, held: ExitStack) -> Named:
    store = output_store()
    if (changes := model.unnamed_changes) is not None:
        raise FileError(f"this MODEL has what no file's content tells ({changes}).")
    if model.file is None:
        raise FileError("nothing says from which file this MODEL came. Load it with Load SANA-Video Model.")
    held.enter_context(store.held())
    return Named(store, Namer(_content(model, model.file, store), model.maker))


def _content(model: HostedModel, file: Path, store: Store) -> str:
    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        interrupted()
        percent = 100 * done // max(1, total)
        if percent < 100 and percent != shown:  # a file that is known already is one report, at the end
            shown = percent
            say_progress(f"reading the model's file once, to know it by its content: {percent} %")

    return transformer_content(file, model.config, store, progress)
