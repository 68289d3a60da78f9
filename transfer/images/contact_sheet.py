"""Contact sheet: small pictures in a grid, with column headings or with captions."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from transfer.images.decoding import Pixels

EDGE = 160  # of a picture on the sheet, pixels
_GAP = 6
_HEADING_HEIGHT = 24
_COLUMNS = 5  # of a sheet with captions
_LINE_HEIGHT, _CAPTION_SIZE = 16, 12
_LONGEST = 80  # characters of a line; more never fit
_BACKGROUND, _INK = "white", "black"


def draw(rows: Sequence[Pixels], columns: Sequence[str]) -> Image.Image:
    """Draw pictures in a grid.

    Args:
        rows: for each row of the grid, an array of shape (columns, size, size, 3), RGB, 0 to 255.
        columns: the headings.
    """
    width, height = (count * (EDGE + _GAP) + _GAP for count in (len(columns), len(rows)))
    sheet = Image.new("RGB", (width, height + _HEADING_HEIGHT), _BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, heading in enumerate(columns):
        pen.text((_GAP + column * (EDGE + _GAP), _GAP), heading, fill=_INK, font=font)
    for row, pictures in enumerate(rows):
        for column, pixels in enumerate(pictures):
            small = Image.fromarray(pixels).resize((EDGE, EDGE), Image.Resampling.LANCZOS)
            sheet.paste(small, (_GAP + column * (EDGE + _GAP), _HEADING_HEIGHT + _GAP + row * (EDGE + _GAP)))
    return sheet


def draw_captioned(pictures: Sequence[Image.Image], captions: Sequence[tuple[str, str]]) -> Image.Image:
    """Draw pictures in a grid, each above its caption.

    Args:
        pictures: one or more, of at most `EDGE` pixels an edge.
        captions: two lines of text for each picture; of a line that is too long, the end is drawn.
    """
    cell_width, cell_height = EDGE + _GAP, EDGE + 2 * _LINE_HEIGHT + 2 * _GAP
    columns, rows = min(_COLUMNS, len(pictures)), math.ceil(len(pictures) / _COLUMNS)
    sheet = Image.new("RGB", (columns * cell_width + _GAP, rows * cell_height + _GAP), _BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_CAPTION_SIZE)
    for number, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        left = _GAP + number % _COLUMNS * cell_width
        top = _GAP + number // _COLUMNS * cell_height
        sheet.paste(picture, (left + (EDGE - picture.width) // 2, top + EDGE - picture.height))
        for line, text in enumerate(lines):
            pen.text((left, top + EDGE + 2 + line * _LINE_HEIGHT), _fitted(text, font), fill=_INK, font=font)
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the end of a text that is as wide as a picture, with an ellipsis before it if it is cut."""
    ends = [text, *(f"…{text[start:]}" for start in range(max(len(text) - _LONGEST, 1), len(text)))]
    return next((end for end in ends if len(end) <= _LONGEST + 1 and font.getlength(end) <= EDGE), "…")
