"""Checks a widget's value as ComfyUI does before anything runs, and says in a sentence what is wrong."""

from __future__ import annotations

import math
import reprlib
from typing import Any

LISTED = 40  # more choices are counted, not listed
LONGEST = 80  # letters of a wrong value that a sentence shows


def _text(value: Any) -> str:
    """ComfyUI would make the prompt “None” of nothing."""
    if value is None or isinstance(value, (dict, list)):
        raise TypeError
    return str(value)


def _finite(value: Any) -> float:
    """ComfyUI lets NaN and infinity pass; no node can use them."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


CONVERTERS = {"INT": int, "FLOAT": _finite, "STRING": _text, "BOOLEAN": bool}
WIDGETS = {*CONVERTERS, "COMBO", "*"}  # what may be a value; everything else is a link


def checked_value(value: Any, entry: Any, limits: bool = True) -> tuple[Any, str]:
    """(the value as the node gets it, what is wrong with it or ""). `limits`: also least, most and choices.

    `entry` is an input of a schema.
    """
    name, kind, options = entry.id, entry.io_type, entry.as_dict()
    if isinstance(value, dict):  # how a list can be a value
        value = value.get("__value__", value)
    if not WIDGETS & {part.strip() for part in kind.split(",")}:
        empty = value is None and entry.optional
        return value, "" if empty else f"“{name}” is {shown(value)}; connect an output of type {kind} instead"
    try:
        value = CONVERTERS.get(kind, lambda same: same)(value)
    except (TypeError, ValueError, OverflowError):
        return value, f"“{name}” is {shown(value)}, which is no {kind}"
    if kind == "COMBO":
        return value, _choice(name, value, options, limits)
    return value, _limit(name, value, options) if limits and kind in ("INT", "FLOAT") else ""


def shown(value: Any) -> str:
    """A wrong value in a sentence, shortened."""
    if isinstance(value, str):
        return f"“{value[:LONGEST]}{'…' if len(value) > LONGEST else ''}”"
    return "empty (null)" if value is None else reprlib.repr(value)


def _limit(name: str, value: float, options: dict[str, Any]) -> str:
    if "min" in options and value < options["min"]:
        return f"“{name}” is {reprlib.repr(value)}; the least is {options['min']}"
    if "max" in options and value > options["max"]:
        return f"“{name}” is {reprlib.repr(value)}; the most is {options['max']}"
    return ""


def _choice(name: str, value: Any, options: dict[str, Any], listed: bool) -> str:
    """A node may accept more texts than its list shows, but nothing that is no text."""
    choices = options.get("options", [])
    chosen = value if options.get("multiselect") and isinstance(value, list) else [value]
    strange = [one for one in chosen if one not in choices and (listed or not isinstance(one, str))]
    if not strange:
        return ""
    words = ", ".join(map(str, choices[:LISTED])) or "nothing is there yet"
    words += f" and {len(choices) - LISTED} more" if len(choices) > LISTED else ""
    return f"“{name}” is {shown(strange[0])}; choose one of: {words}"
