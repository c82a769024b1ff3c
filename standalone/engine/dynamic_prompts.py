"""`{a|b}` in a prompt: the page sends one of the choices, where a node's text declares `dynamic_prompts`."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

from ...sana_video_core.errors import InputError

COMMENT = re.compile(r"/\*[\s\S]*?\*/|//[^\n\r\u2028\u2029]*")
MOST = 1000  # choices in a text: each is looked for in all that follows it
ESCAPED = re.compile(r"\\([{}|])")


def resolve(text: str, choose: Callable[[list[str]], str] = random.choice) -> str:
    """The text without comments, with one choice of each {a|b}; \\{ \\} and \\| stay as { } and |.

    A choice may hold choices of its own. Not recursive: braces can be nested as deep as a text.
    """
    waiting: list[tuple[str, str]] = []  # the way to a choice: (what comes after it, what came before it)
    braces = text.count("{")
    if braces > MOST:
        raise InputError(
            f"A prompt has {braces:,} “{{”, each of which opens a choice; at most {MOST:,} are possible. "
            "Write \\{ for a brace that is meant as one."
        )
    rest, done = COMMENT.sub("", text), ""
    while True:
        brace = _unescaped(rest, "{")
        if brace >= 0:
            choices, after = _choices(rest[brace + 1 :])
            waiting.append((after, done + rest[:brace]))
            rest, done = choose(choices), ""
            continue
        chosen = ESCAPED.sub(r"\1", done + rest)
        if not waiting:
            return chosen
        rest, before = waiting.pop()
        done = before + chosen


def declared(options: dict[str, Any]) -> bool:
    """Whether an input's options in /object_info say that its text has choices."""
    return options.get("dynamicPrompts") is True


def _unescaped(text: str, letter: str) -> int:
    position = 0
    while position < len(text):
        if text[position] == letter:
            return position
        position += 2 if text[position] == "\\" else 1
    return -1


def _choices(text: str) -> tuple[list[str], str]:
    """The choices of a brace that was just opened, and what follows its end; without an end, nothing does."""
    choices, begin, position, depth = [], 0, 0, 0
    while position < len(text):
        letter = text[position]
        if letter == "}" and depth == 0:
            break
        if letter == "|" and depth == 0:
            choices.append(text[begin:position])
            begin = position + 1
        depth += {"{": 1, "}": -1}.get(letter, 0)
        position += 2 if letter == "\\" else 1
    return [*choices, text[begin:position]], text[position + 1 :]
