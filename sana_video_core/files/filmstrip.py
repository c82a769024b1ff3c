"""A picture of pictures with captions, to be read at the width of a node (about 300 pixels)."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont, ImageOps

WIDTH, GAP, LINE, LETTERS = 480, 8, 20, 17  # pixels
TALLEST = 0.6  # of a cell's width
PER_ROW, PROMPT_LINES = 3, 3
PAPER, INK, DIM = (38, 38, 38), (240, 240, 240), (165, 165, 165)
DRAWN = "\u2013\u2014\u2018\u2019\u201c\u201d\u2026"  # punctuation that Pillow's own font has


def filmstrip_of(head: list[str], cells: list[tuple[Image.Image, str, str]]) -> Image.Image:
    """Lines of text over cells of (picture, label, caption). Rows are full: none has an empty cell."""
    rows, left = [_text(head, WIDTH)], list(cells)
    count = -(-len(cells) // PER_ROW)
    for row in range(count):
        length = -(-len(left) // (count - row))
        rows.append(_row(left[:length]))
        left = left[length:]
    sheet = Image.new("RGB", (WIDTH, sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _row(cells: list[tuple[Image.Image, str, str]]) -> Image.Image:
    width = (WIDTH - GAP * (len(cells) - 1)) // len(cells)
    drawn = [_cell(width, *cell) for cell in cells]
    row = Image.new("RGB", (WIDTH, max(cell.height for cell in drawn)), PAPER)
    for number, cell in enumerate(drawn):
        row.paste(cell, (number * (width + GAP), 0))
    return row


def _cell(width: int, picture: Image.Image, label: str, caption: str) -> Image.Image:
    picture = ImageOps.contain(picture, (width, round(width * TALLEST)), Image.Resampling.BICUBIC)
    text = _text([label, *_wrapped(caption, width)], width)
    cell = Image.new("RGB", (width, picture.height + text.height), PAPER)
    cell.paste(picture, ((width - picture.width) // 2, 0))
    cell.paste(text, (0, picture.height))
    return cell


def _text(lines: list[str], width: int) -> Image.Image:
    """Lines on paper, the first one dimmer; what is too long is cut off."""
    paper = Image.new("RGB", (width, LINE * len(lines) + GAP), PAPER)
    for number, line in enumerate(lines):
        place = (2, LINE * number + 2)
        ImageDraw.Draw(paper).text(place, line, fill=INK if number else DIM, font=_font())
    return paper


def _wrapped(text: str, width: int) -> list[str]:
    """The text in at most `PROMPT_LINES` lines, shortened with “…”."""
    if any(ord(letter) >= 0x250 and letter not in DRAWN for letter in text):
        return ["(see the report)"]  # the font would draw boxes
    font, lines = _font(), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= width - 4:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > PROMPT_LINES:
        last = lines[PROMPT_LINES - 1]
        while last and font.getlength(f"{last} …") > width - 4:
            last = last[:-1]
        lines = [*lines[: PROMPT_LINES - 1], f"{last} …"]
    return lines


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LETTERS)
