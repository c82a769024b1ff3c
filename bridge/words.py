"""Sentences on a node: its warnings, its error, and how far it is.

They go to the page as ComfyUI's progress text. Without a page they are in the log only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from comfy_execution.utils import get_executing_context

from ..sana_video_core.errors import SanaVideoError
from .page import drawn, open_page

LONGEST_ERROR = 300  # characters of an error that isn't ours
BREAK = "  \n"  # a new line also where a page reads the text as Markdown
PLAIN = str.maketrans("<>", "\u2039\u203a")  # ‹ and ›: some pages read the text as HTML


class Words:
    """What one node says in one run. Every change sends the whole text, as the page keeps one for a node."""

    def __init__(self, node_id: str) -> None:
        self._node_id, self._sentences, self._progress = node_id, [], ""

    def say(self, sentence: str) -> None:
        """Add a sentence; it stays."""
        if sentence not in self._sentences:
            self._sentences.append(sentence)
            self._send()

    def progress(self, line: str) -> None:
        """How far the node is; the next such line takes the place of this one."""
        self._progress = line
        self._send()

    def _send(self) -> None:
        if (page := open_page()) is not None:
            lines = [*self._sentences, *filter(None, [self._progress])]
            text = BREAK.join("\n".join(lines).splitlines()).translate(PLAIN)
            page.send_progress_text(text, self._node_id, page.client_id)


def _shown(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.WARNING:
        say(record.getMessage())
    return True  # into the log, too


_running: ContextVar[Words | None] = ContextVar("words of the node that runs", default=None)
# a filter: with a handler of its own, the logger would print nothing where nobody has set logging up
logging.getLogger("sana_video").addFilter(_shown)


@contextmanager
def on_node() -> Iterator[None]:
    """Inside the block, warnings are shown on the node that ComfyUI runs, and so is what ends it.

    An interrupt isn't an Exception, and passes in silence.
    """
    context = get_executing_context()
    token = _running.set(context and Words(drawn(context.node_id)))
    try:
        yield
    except SanaVideoError as error:
        say(str(error))
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        say(words if len(words) <= LONGEST_ERROR else f"{words[:LONGEST_ERROR]} …")
        raise
    finally:
        _running.reset(token)


def say(sentence: str) -> None:
    """Show a sentence on the node that runs, if one does."""
    words = _running.get()
    if words is not None:
        words.say(sentence)


def say_progress(line: str) -> None:
    """Show how far the node that runs is."""
    words = _running.get()
    if words is not None:
        words.progress(line)
