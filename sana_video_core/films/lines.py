"""Reads the lines of a script: each a time, how the shot begins, a seed, and the prompt.

It knows nothing of chunks. What could be meant in two ways is refused, with the number of the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction

from ..config import PROMPT_CHANGES
from ..errors import InputError
from .plan import clock

MOST_SEED = 2**64 - 1
LETTERS = 60  # of a text that a sentence quotes
EXAMPLE = "“0:00 a fox runs through snow”"
INVISIBLE = {ord(letter): None for letter in "\u200b\u2060\ufeff"}  # pasted along from pages and files
SPACES = {ord(letter): " " for letter in "\t\u00a0\u202f"}

# Also in the full-width forms of East Asian keyboards: \uff1a a colon, \uff0c a comma, \uff1b a semicolon,
# \uff1d an equals sign, \u3001 a listing comma. \u2013 and \u2014 are dashes, \u2192 is an arrow.
COMMAS = ",;\uff0c\uff1b"
COLON, DASH, ARROW = r"[:\uff1a]", r"[-\u2013\u2014]", r"[-\u2013\u2014~>\u2192]"
MARKS = "[*`]*"  # Markdown's bold and code
TIME = re.compile(
    rf"(?:\d{{1,4}}[.)]\s+)?@?{MARKS}[\[({{<]?\s*"  # the number in a list, brackets
    rf"(\d{{1,6}}(?:{COLON}\d{{1,6}})+)(?:[.,](\d{{1,9}}))?(?:s(?:ec)?)?"
    rf"(?![A-Za-z\d_]|[.,:\uff1a]\d)[\])}}>]?(?:{COLON}(?={MARKS}\s))?{MARKS}"
)
UNTIL = re.compile(rf"\s*(?:{ARROW}+|to)\s*[\[({{<]?\d+{COLON}\d")  # after a time: a range
AFTER_TIME = re.compile(rf"(?:{ARROW}|\.)*")
LEAD = re.compile(rf"(?:\s|{COLON}|[{COMMAS}\u3001|]|(?:{ARROW}|[*\u2022])+(?=\s|$))*")  # also bullets
NO_TIME = re.compile(
    r"\W*0+(?:(?:[.,'\u2019\u2032]|m(?:in)?)\s*0+)?\s*(?:s|secs?|seconds|[\"\u201d\u2033])?"
    r"(?=[\s\])}*`:\uff1a-]|$)",
    re.IGNORECASE,
)
END, ENDING = re.compile(r"\W*end\W*", re.IGNORECASE), re.compile(r"end\b", re.IGNORECASE)
CHANGE = re.compile(rf"{MARKS}(cut\s+to|cut|keep|recache){MARKS}\s*{COLON}{MARKS}", re.IGNORECASE)
LIKE_CHANGE = re.compile(
    r"[\[({<]\s*(?:cut|keep|recache)\b|cut\s+to\b"
    rf"|(?:cut|keep|recache)(?:\s+{DASH}|\s*[=,;>|\])}}]|\s+\w+\s*{COLON}|$)",
    re.IGNORECASE,
)
WORD = re.compile(rf"(\w+)\s*{COLON}")
SEED = re.compile(r"(?<!\S)[\[({]?seed\s*[=\uff1d]\s*(\S*)", re.IGNORECASE)
SEED_AT_END = re.compile(SEED.pattern + r"\s*$", re.IGNORECASE)
LIKE_SEED = re.compile(rf"seed\s*[=\uff1d]|(?<!\S)--?seed\b|\bseed\s*{COLON}\s*\d", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A shot as it is written."""

    number: int  # of the line in the text, counted from 1
    begins: Fraction | None  # seconds; None in a script without times
    change: str  # one of PROMPT_CHANGES
    seed: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A script as it is written: its shots, and its `end` line's number and time in seconds."""

    shots: tuple[Line, ...]
    end: tuple[int, Fraction] | None


def mistake(number: int, words: str) -> InputError:
    """The error of one line."""
    return InputError(f"Line {number}: {words}")


def quoted(text: str) -> str:
    return f"“{text}”" if len(text) <= LETTERS else f"“{text[:LETTERS].rstrip()} …”"


def read_lines(text: str) -> Lines:
    """The shots of a script, in order. Raises InputError for the first line that can't be read."""
    shots: list[Line] = []
    end: tuple[int, Fraction] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.translate(INVISIBLE).translate(SPACES).strip()
        if not line or line.startswith("#"):
            continue
        if end is not None:
            raise mistake(
                number, f"nothing can follow the end of the film, which is line {end[0]}. Move one of them."
            )
        begins, rest = _time(number, line)
        if shots:
            _check_like(number, begins, rest, shots[0])
        if END.fullmatch(rest):
            end = _end(number, begins)
        else:
            shots.append(_shot(number, begins, rest))
    if not shots:
        what = "has no shot" if text.strip() else "is empty"
        raise InputError(
            f"The script {what}. Write a line for each shot, for example {EXAMPLE}; "
            "lines that begin with # are comments."
        )
    return Lines(shots=tuple(shots), end=end)


def _time(number: int, line: str) -> tuple[Fraction | None, str]:
    """The time at the beginning of a line in seconds, and the rest of the line."""
    bare = line[_end_of(LEAD, line) :]
    found = TIME.match(bare)
    if found is None:
        return None, line
    rest = bare[found.end() :]
    if UNTIL.match(rest):
        raise mistake(
            number,
            f"{quoted(bare)} gives two times. A shot lasts until the next line: give only the time at which "
            "it begins.",
        )
    parts = [int(part) for part in re.split(COLON, found[1])]
    if len(parts) > 3:
        raise mistake(
            number,
            f"“{found[1]}” has {len(parts)} parts. A time is m:ss or h:mm:ss, with decimals for less than a "
            "second (0:07.5).",
        )
    whole = sum(part * 60**place for place, part in enumerate(reversed(parts)))
    if any(part >= 60 for part in parts[-2:]):
        raise mistake(
            number, f"“{found[1]}” has 60 or more seconds or minutes. Write {clock(Fraction(whole))}."
        )
    decimals = found[2] or "0"
    return whole + Fraction(int(decimals), 10 ** len(decimals)), rest[_end_of(AFTER_TIME, rest) :]


def _end_of(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    return found.end() if found else 0


def _check_like(number: int, begins: Fraction | None, rest: str, first: Line) -> None:
    """All lines have a time, or none has."""
    if (begins is None) == (first.begins is None) or END.fullmatch(rest):
        return
    here, there = ("has no time", "has one") if begins is None else ("begins with a time", "has none")
    raise mistake(
        number,
        f"{quoted(rest.strip())} {here}, but line {first.number} {there}. Give each line a time or none; a "
        "shot is one line.",
    )


def _end(number: int, begins: Fraction | None) -> tuple[int, Fraction]:
    if begins is None:
        raise mistake(
            number,
            "“end” has no time. Write when the film ends, for example “0:30 end”; a script without times "
            "needs no end, as “seconds” says how long it is.",
        )
    return number, begins


def _shot(number: int, begins: Fraction | None, rest: str) -> Line:
    """One shot: its words and its seed in any order, then the prompt; the seed may also come last."""
    change: str | None = None
    seeds: list[int] = []
    while True:
        rest = rest[_end_of(LEAD, rest) :]
        if found := CHANGE.match(rest):
            if change is not None:
                raise mistake(
                    number, f"it says twice how it begins ({change}, {found[1]}). Leave one of them."
                )
            change = found[1].split()[0].lower()
        elif found := SEED.match(rest):
            seeds.append(_seed(number, found))
        else:
            break
        rest = rest[found.end() :]
    if found := SEED_AT_END.search(rest):
        seeds.append(_seed(number, found))
        rest = rest[: found.start()].rstrip(f" \u3000{COMMAS}")
    if len(seeds) > 1:
        raise mistake(number, "it has more than one seed. Leave one of them.")
    _check_text(number, begins, rest)
    return Line(
        number=number,
        begins=begins,
        change=change or PROMPT_CHANGES[0],
        seed=seeds[0] if seeds else None,
        text=rest,
    )


def _seed(number: int, found: re.Match[str]) -> int:
    digits = found[1].rstrip(f"]).}}{COMMAS}")
    if not digits.isdecimal():
        raise mistake(
            number,
            f"the seed is {quoted(digits)}. Write a whole number and a space after it, for example seed=7."
            if digits
            else "“seed=” has no number. Write a whole number, for example seed=7.",
        )
    if len(digits.lstrip("0")) > len(str(MOST_SEED)) or int(digits) > MOST_SEED:
        raise mistake(number, f"the seed {quoted(digits)} is too large. Choose one from 0 to {MOST_SEED}.")
    return int(digits)


def _check_text(number: int, begins: Fraction | None, text: str) -> None:
    """Raises InputError unless a text can only be a prompt."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise mistake(
            number,
            f"it holds a broken letter (number {error.start + 1} of its text). Type that letter again.",
        ) from error
    if not text.strip(" .…_-\u2013\u2014") or LIKE_CHANGE.fullmatch(text):
        raise mistake(number, f"it has no text. Write what is seen in this shot, as in {EXAMPLE}.")
    if END.fullmatch(text) or ENDING.match(text):
        raise mistake(
            number,
            f"{quoted(text)}: “end” stands alone after its time and ends the film, as in “0:30 end”. "
            "If it belongs to the picture, begin with another word, as in “the end of a road”.",
        )
    word = WORD.match(text)
    if LIKE_CHANGE.match(text) or (word and get_close_matches(word[1].lower(), PROMPT_CHANGES, 1, 0.8)):
        raise mistake(
            number,
            f"{quoted(text)}: to say how a shot begins, write “cut:”, “keep:” or “recache:” with its colon. "
            "If these words belong to the picture, begin with others.",
        )
    if TIME.match(text) or UNTIL.match(text):
        raise mistake(
            number,
            f"{quoted(text)} begins with a second time. Give one; if it belongs to the picture, begin with "
            "other words.",
        )
    if begins is None and NO_TIME.match(text):
        raise mistake(
            number,
            f"{quoted(text)}: write times as m:ss, as in {EXAMPLE}. If the number belongs to the picture, "
            "write it as a word.",
        )
    if found := LIKE_SEED.search(text):
        raise mistake(
            number,
            f"{quoted(text[found.start() :])}: write a seed as seed=7, at the beginning or the end of the "
            "line. If these words belong to the picture, say them otherwise.",
        )
